// An auction with epsilon-scaling (Bertsekas, "The auction algorithm", Annals of Operations Research 14, 1988) and,
// where it is not enough, shortest augmenting paths (Jonker & Volgenant, Computing 38, 1987).
//
// x's points are persons, y's are objects. Everybody wants the object of least distance + price. Prices p prove a lower
// bound at any time: sum_i min_j (d_ij + p_j) - sum_j p_j, because each bijection pays every price exactly once.
#include "assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bidding.h"
#include "blocked.h"

namespace pcdiff {
namespace {

constexpr int64_t kNobody = -1;
constexpr int64_t kMostBids = 400;  // a person, in all
constexpr int64_t kPatientBids = 16;  // a person, in the first round; then its increment was too small
constexpr double kShrink = 8;  // from one round's increment to the next
// The gap after a round is nearly always close to 0.55 of the increment; a last round aims at this much of tolerance.
constexpr double kGapInIncrements = 0.6;
constexpr double kGapBeforePaths = 1e-4;  // where an exact solution is wanted, the auction stops here
constexpr int kReductions = 3;
// Relative to the cost: what is closer to a proved bound than this is optimal as far as float64 can tell.
constexpr double kRounding = 1e-12;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Neumaier's compensated sum: its error does not grow with the number of terms.
class Sum {
 public:
  void add(double value) {
    const double next = total_ + value;
    rest_ += std::fabs(total_) >= std::fabs(value) ? (total_ - next) + value : (value - next) + total_;
    total_ = next;
    size_ += std::fabs(value);
  }
  double total() const { return total_ + rest_; }
  double size() const { return size_; }

 private:
  double total_ = 0, rest_ = 0, size_ = 0;
};

// Both clouds in the order in which the solver goes through them: neighbors together.
struct Ordered {
  int64_t dim = 0;  // as stored: 3 at least
  std::vector<double> points;  // blocks x dim x 16
  std::vector<double> boxes;  // groups of sixteen, lo and hi; empty above three dimensions
  std::vector<int64_t> index;  // blocks x 16
  int64_t blocks = 0;

  Ordered(const double* cloud, int64_t n, int64_t d) {
    if (d > 3) {
      dim = d;
      blocks = (n + kBlock - 1) / kBlock;
      points.resize(static_cast<size_t>(blocks * dim * kBlock));
      index.resize(static_cast<size_t>(blocks * kBlock));
      for (int64_t slot = 0; slot < blocks * kBlock; ++slot) {
        const int64_t i = std::min(slot, n - 1);
        index[static_cast<size_t>(slot)] = i;
        for (int64_t k = 0; k < dim; ++k) {
          points[static_cast<size_t>((slot / kBlock * dim + k) * kBlock + slot % kBlock)] = cloud[i * dim + k];
        }
      }
      return;
    }
    BlockedBatch<double> batch(1, n, static_cast<int>(d));
    batch.fill(0, cloud, n);
    const BlockedCloud<double> view = batch[0];
    dim = 3;
    blocks = view.blocks;
    points.assign(view.points, view.points + blocks * 3 * kBlock);
    boxes.assign(view.boxes, view.boxes + (boxes_on(blocks, 1)) * kGroup);
    index.assign(view.index, view.index + blocks * kBlock);
  }
};

// The clouds and prices in one precision.
template <class T>
struct Market {
  std::vector<T> persons;  // n x dim
  std::vector<T> points, boxes, price, least_price;
  Objects<T> objects;

  // `origin` is subtracted: what is left of the coordinates in float32 should be spent on the shape.
  Market(const Ordered& x, const Ordered& y, int64_t n, const std::vector<double>& origin) {
    const int64_t dim = y.dim;
    const auto shifted = [&](double value, int64_t d) {
      return static_cast<T>(value - origin[static_cast<size_t>(d)]);
    };
    persons.resize(static_cast<size_t>(n * dim));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t d = 0; d < dim; ++d) {
        const double value = x.points[static_cast<size_t>((i / kBlock * dim + d) * kBlock + i % kBlock)];
        persons[static_cast<size_t>(i * dim + d)] = shifted(value, d);
      }
    }
    points.resize(y.points.size());
    for (size_t k = 0; k < points.size(); ++k) {
      points[k] = shifted(y.points[k], static_cast<int64_t>(k) / kBlock % dim);
    }
    boxes.resize(y.boxes.size());
    for (size_t k = 0; k < boxes.size(); ++k) boxes[k] = shifted(y.boxes[k], static_cast<int64_t>(k) / kBlock % 3);
    price.assign(static_cast<size_t>(y.blocks * kBlock), kNever<T>);
    std::fill_n(price.begin(), n, T{0});
    least_price.assign(static_cast<size_t>((y.blocks + kBlock - 1) / kBlock * kBlock), kNever<T>);
    std::fill_n(least_price.begin(), y.blocks, T{0});
    objects = {y.blocks, dim, points.data(), boxes.empty() ? nullptr : boxes.data(), price.data(), least_price.data()};
  }

  const T* person(int64_t i) const { return persons.data() + i * objects.dim; }

  T distance(int64_t i, int64_t slot) const {
    const T* a = person(i);
    const T* b = points.data() + slot / kBlock * objects.dim * kBlock + slot % kBlock;
    T sum = 0;
    for (int64_t d = 0; d < objects.dim; ++d) {
      const T difference = b[d * kBlock] - a[d];
      sum = sum + difference * difference;
    }
    return std::sqrt(sum);
  }

  void set_price(int64_t slot, T value) {
    price[static_cast<size_t>(slot)] = value;
    const int64_t block = slot / kBlock;
    T least = kNever<T>;
    for (int k = 0; k < kBlock; ++k) {
      const T other = price[static_cast<size_t>(block * kBlock + k)];
      least = other < least ? other : least;
    }
    least_price[static_cast<size_t>(block)] = least;
  }
};

class Solver {
 public:
  Solver(const Bidding& bidding, const Ordered& x, const Ordered& y, int64_t n, const std::vector<double>& origin)
      : bidding_(bidding), n_(n), fine_(x, y, n, std::vector<double>(origin.size(), 0.0)), coarse_(x, y, n, origin) {
    slot_.assign(static_cast<size_t>(n), kNobody);
    hint_.assign(static_cast<size_t>(n), 0);
    owner_.assign(static_cast<size_t>(y.blocks * kBlock), kNobody);
  }

  Assignment solve(double tolerance, double enough) {
    if (n_ == 1) {
      // Nobody outbids anybody.
      take(0, 0);
      keep(cost(), cost());
      return best_;
    }
    const double goal = tolerance > 0 ? tolerance : kGapBeforePaths;
    double increment = first_increment();
    while (true) {
      bool done;
      if (increment > resolution<float>()) {
        done = round(coarse_, increment);
        publish();
      } else {
        done = increment > resolution<double>() && round(fine_, increment);
      }
      if (!done) break;
      measure();
      if (best_.lower_bound > enough) return best_;
      if (closed(goal)) break;
      const double last = goal * best_.lower_bound / kGapInIncrements;
      const double next = increment / kShrink;
      // Straight to the last one when it is near; where that was not enough, half of it.
      increment = increment <= last ? increment / 2 : next < last * std::sqrt(kShrink) ? last : next;
    }
    if (tolerance > 0 && closed(tolerance)) return best_;
    finish(true);
    if (!closed(kRounding)) {
      // Prices so far above the distances that those drown in their rounding: start from none, raise none needlessly.
      for (int64_t slot = 0; slot < n_; ++slot) fine_.set_price(slot, 0);
      finish(false);
    }
    if (closed(kRounding)) best_.lower_bound = best_.cost;
    return best_;
  }

  // The object of each person, in the solver's order, in the best bijection found.
  const std::vector<int64_t>& slots() const { return best_slot_; }

 private:
  size_t at(int64_t i) const { return static_cast<size_t>(i); }

  template <class T>
  const BiddingTable<T>& loops() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return bidding_.coarse;
    } else {
      return bidding_.fine;
    }
  }

  bool closed(double share) const {
    return !best_slot_.empty() && best_.cost - best_.lower_bound <= share * best_.cost;
  }

  // The mean distance to the nearest object: a lower bound of the cost, and mostly within a small factor of it.
  double first_increment() {
    double sum = 0, far = 0;
    for (int64_t i = 0; i < n_; ++i) {
      const auto offer = bidding_.coarse.best_two(coarse_.objects, coarse_.person(i), i ? hint_[at(i - 1)] : 0);
      hint_[at(i)] = offer.slot / kBlock;
      sum += static_cast<double>(offer.best);
      far = std::max(far, static_cast<double>(coarse_.distance(i, 0)));
    }
    return sum > 0 ? sum / static_cast<double>(n_) : far / 64;
  }

  // Below this, adding an increment to a price would round most of it away.
  template <class T>
  double resolution() const {
    T highest = 1;
    for (int64_t slot = 0; slot < n_; ++slot) highest = std::max(highest, static_cast<T>(coarse_.price[at(slot)]));
    return static_cast<double>(highest) * 16 * std::numeric_limits<T>::epsilon();
  }

  void publish() {
    for (int64_t slot = 0; slot < n_; ++slot) fine_.price[at(slot)] = static_cast<double>(coarse_.price[at(slot)]);
    for (int64_t block = 0; block < fine_.objects.blocks; ++block) {
      fine_.set_price(block * kBlock, fine_.price[at(block * kBlock)]);
    }
  }

  // Sells all objects anew. False if the bids run out first. The first round may have to raise the increment.
  template <class T>
  bool round(Market<T>& market, double& increment) {
    release();
    std::vector<int64_t> waiting(at(n_));
    for (int64_t i = 0; i < n_; ++i) waiting[at(i)] = n_ - 1 - i;
    const bool first = bids_ == 0;
    int64_t patience = kPatientBids * n_;
    while (!waiting.empty()) {
      if (bids_ == kMostBids * n_) return false;
      if (first && bids_ == patience) {
        increment *= 4;
        patience += kPatientBids * n_;
      }
      ++bids_;
      const int64_t i = waiting.back();
      waiting.pop_back();
      const auto offer = loops<T>().best_two(market.objects, market.person(i), hint_[at(i)]);
      hint_[at(i)] = offer.slot / kBlock;
      market.set_price(offer.slot,
                       market.price[at(offer.slot)] + ((offer.second - offer.best) + static_cast<T>(increment)));
      if (owner_[at(offer.slot)] != kNobody) waiting.push_back(owner_[at(offer.slot)]);
      take(i, offer.slot);
    }
    return true;
  }

  void release() {
    std::fill(slot_.begin(), slot_.end(), kNobody);
    std::fill(owner_.begin(), owner_.end(), kNobody);
  }

  void take(int64_t i, int64_t slot) {
    slot_[at(i)] = slot;
    owner_[at(slot)] = i;
  }

  double cost() const {
    Sum sum;
    for (int64_t i = 0; i < n_; ++i) sum.add(fine_.distance(i, slot_[at(i)]));
    return sum.total() / static_cast<double>(n_);
  }

  // The value of the bijection and the bound that the prices prove, both in float64.
  void measure() {
    Sum dual;
    for (int64_t i = 0; i < n_; ++i) {
      dual.add(bidding_.fine.best_two(fine_.objects, fine_.person(i), slot_[at(i)] / kBlock).best);
      dual.add(-fine_.price[at(slot_[at(i)])]);
    }
    // Distances are right to half as many units in the last place as they have coordinates, and so is the sum.
    const double units = 16 + static_cast<double>(fine_.objects.dim);
    const double margin = units * std::numeric_limits<double>::epsilon() * dual.size();
    keep(cost(), (dual.total() - margin) / static_cast<double>(n_));
  }

  void keep(double cost, double lower_bound) {
    if (best_slot_.empty() || cost < best_.cost) {
      best_.cost = cost;
      best_slot_ = slot_;
    }
    // Distances are not negative, so neither is the cost of any bijection.
    best_.lower_bound = std::min(best_.cost, std::max({best_.lower_bound, lower_bound, 0.0}));
  }

  // From the prices reached to an optimal bijection. With `raise`, bids without an increment come before the paths:
  // far quicker, but they raise prices to the second best.
  void finish(bool raise) {
    release();
    std::vector<int64_t> waiting(at(n_)), next;
    for (int64_t i = 0; i < n_; ++i) waiting[at(i)] = i;
    for (int pass = 0; pass < (raise ? kReductions : 1); ++pass) {
      next.clear();
      for (const int64_t i : waiting) {
        const auto offer = bidding_.fine.best_two(fine_.objects, fine_.person(i), hint_[at(i)]);
        hint_[at(i)] = offer.slot / kBlock;
        const int64_t owner = owner_[at(offer.slot)];
        if (owner != kNobody && (!raise || !(offer.best < offer.second))) {
          next.push_back(i);
          continue;
        }
        // No increment: the object stays as good as the second best, so the prices still prove it the best.
        if (raise) fine_.set_price(offer.slot, fine_.price[at(offer.slot)] + (offer.second - offer.best));
        if (owner != kNobody) {
          slot_[at(owner)] = kNobody;
          next.push_back(owner);
        }
        take(i, offer.slot);
      }
      waiting.swap(next);
    }
    free_.clear();
    for (int64_t slot = 0; slot < n_; ++slot) {
      if (owner_[at(slot)] == kNobody) free_.push_back(slot);
    }
    length_.resize(owner_.size());
    person_.resize(owner_.size());
    shortest_.resize(at(fine_.objects.blocks));
    for (const int64_t i : waiting) augment(i);
    measure();
  }

  // Finds the shortest path from a person without an object to an object without an owner, and reassigns along it.
  void augment(int64_t start) {
    const Paths<double> paths{length_.data(), person_.data(), shortest_.data()};
    std::fill(length_.begin(), length_.end(), -kInfinity);
    std::fill_n(length_.begin(), n_, kInfinity);
    std::fill(shortest_.begin(), shortest_.end(), kInfinity);
    closed_.clear();

    int64_t i = start, target;
    double reached = 0;
    double value = bidding_.fine.best_two(fine_.objects, fine_.person(i), hint_[at(i)]).best;
    double limit = kInfinity;  // the shortest known way to an object without an owner
    while (true) {
      bidding_.fine.relax(fine_.objects, fine_.person(i), reached - value, limit, i, paths);
      for (const int64_t slot : free_) limit = std::min(limit, length_[at(slot)]);
      const auto block = std::min_element(shortest_.begin(), shortest_.end()) - shortest_.begin();
      int64_t slot = block * kBlock;
      while (length_[at(slot)] != shortest_[at(block)]) ++slot;
      reached = length_[at(slot)];
      if (owner_[at(slot)] == kNobody) {
        target = slot;
        break;
      }
      closed_.push_back({slot, reached});
      length_[at(slot)] = -kInfinity;
      double least = kInfinity;
      for (int64_t k = block * kBlock; k < (block + 1) * kBlock; ++k) {
        if (length_[at(k)] != -kInfinity) least = std::min(least, length_[at(k)]);
      }
      shortest_[at(block)] = least;
      i = owner_[at(slot)];
      value = fine_.distance(i, slot) + fine_.price[at(slot)];
    }
    for (const auto& [slot, length] : closed_) fine_.set_price(slot, fine_.price[at(slot)] + (reached - length));
    free_.erase(std::find(free_.begin(), free_.end(), target));
    for (int64_t slot = target; slot != kNobody;) {
      const int64_t mover = person_[at(slot)];
      const int64_t left = slot_[at(mover)];
      take(mover, slot);
      slot = left;
    }
  }

  Bidding bidding_;
  int64_t n_;
  Market<double> fine_;
  Market<float> coarse_;
  std::vector<int64_t> slot_, hint_, owner_, best_slot_;
  int64_t bids_ = 0;
  Assignment best_{kInfinity, 0};
  // for the shortest paths
  std::vector<int64_t> free_, person_;
  std::vector<double> length_, shortest_;
  std::vector<std::pair<int64_t, double>> closed_;
};

}  // namespace

template <class T>
Assignment assign(const Bidding& bidding, const T* x, const T* y, int64_t n, int64_t dim, double tolerance,
                  double enough, int64_t* assignment) {
  // To a size of about 1, by a power of two, which rounds nothing: squares can neither overflow nor vanish.
  std::vector<double> origin(static_cast<size_t>(std::max<int64_t>(dim, 3)), 0.0);
  std::vector<bool> flat(origin.size(), true);
  double extent = 0;
  for (int64_t d = 0; d < dim; ++d) {
    double low = kInfinity, high = -kInfinity;
    for (const T* cloud : {x, y}) {
      for (int64_t i = 0; i < n; ++i) {
        low = std::min(low, static_cast<double>(cloud[i * dim + d]));
        high = std::max(high, static_cast<double>(cloud[i * dim + d]));
      }
    }
    origin[static_cast<size_t>(d)] = low / 2 + high / 2;
    extent = std::max(extent, high / 2 - low / 2);
    // A coordinate that all points share may be of any size beside the others, and means nothing.
    flat[static_cast<size_t>(d)] = low == high;
    if (low == high) origin[static_cast<size_t>(d)] = 0;
  }
  const int exponent = extent > 0 ? -std::ilogb(extent) : 0;
  const auto scaled = [&](const T* cloud) {
    std::vector<double> out(static_cast<size_t>(n * dim));
    for (size_t k = 0; k < out.size(); ++k) {
      const bool same = flat[k % static_cast<size_t>(dim)];
      out[k] = same ? 0 : std::ldexp(static_cast<double>(cloud[k]), exponent);
    }
    return out;
  };
  for (double& value : origin) value = std::ldexp(value, exponent);

  const Ordered ordered_x(scaled(x).data(), n, dim), ordered_y(scaled(y).data(), n, dim);
  Solver solver(bidding, ordered_x, ordered_y, n, origin);
  const Assignment result = solver.solve(tolerance, std::ldexp(enough, exponent));
  for (int64_t i = 0; i < n; ++i) {
    assignment[ordered_x.index[static_cast<size_t>(i)]] =
        ordered_y.index[static_cast<size_t>(solver.slots()[static_cast<size_t>(i)])];
  }
  // Back among the subnormal numbers digits are lost; a lower bound must not gain by it.
  double bound = std::ldexp(result.lower_bound, -exponent);
  if (std::ldexp(bound, exponent) > result.lower_bound) bound = std::nextafter(bound, 0.0);
  const double cost = std::ldexp(result.cost, -exponent);
  return {cost, result.lower_bound == result.cost ? cost : bound};
}

template Assignment assign(const Bidding&, const float*, const float*, int64_t, int64_t, double, double, int64_t*);
template Assignment assign(const Bidding&, const double*, const double*, int64_t, int64_t, double, double, int64_t*);

}  // namespace pcdiff
