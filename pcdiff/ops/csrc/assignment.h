// Bijections between clouds of equal size at the least mean Euclidean distance, with a proof of how good they are.
#pragma once

#include <cstdint>

namespace pcdiff {

struct Assignment {
  double cost;         // mean distance under the bijection
  double lower_bound;  // no bijection costs less: the value of a feasible dual solution
};

// Assigns each of x's points (n, dim) one of y's and writes its index to `assignment`. Coordinates must be finite.
//
// With a positive tolerance, `cost - lower_bound <= tolerance * cost` holds on return; with 0 the bijection is optimal
// up to rounding and the lower bound equals the cost. At most 400 n bids of an auction are made and at most n shortest
// paths are searched, each in O(n^2), so the time is O(n^3) whatever the clouds.
template <class T>
Assignment assign(const T* x, const T* y, int64_t n, int64_t dim, double tolerance, int64_t* assignment);

extern template Assignment assign(const float*, const float*, int64_t, int64_t, double, int64_t*);
extern template Assignment assign(const double*, const double*, int64_t, int64_t, double, int64_t*);

}  // namespace pcdiff
