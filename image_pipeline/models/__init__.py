"""Image nets: `net(x, t, cond=None)` gives a tensor like the images `x (B, C, H, W)`, with labels `t (B,)`."""
