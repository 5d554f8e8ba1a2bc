// Bijections at the least mean Euclidean distance, with a proof of how good they are: an auction with epsilon-scaling
// (Bertsekas, "The auction algorithm", Annals of Operations Research 14, 1988), one block for each pair of clouds,
// without a word from the host.
//
// x's points are persons, y's are objects. Everybody wants the object of least distance + price. In a round all
// persons without an object bid at once; each object goes to the highest bid, of equal ones to the smallest person.
// So a round's outcome depends on the prices before it only, not on the order in which threads come by: results are
// the same every time. The threads are dealt out to the bidders in equal groups, each group searching one person's
// objects: few persons are left in most rounds, and then many threads serve each.
//
// Prices p prove a lower bound at any time: sum_i min_j (d_ij + p_j) - sum_j p_j, because each bijection pays every
// price exactly once. Bids may be computed roughly, in float32; the cost and the bound are computed in float64.
//
// One pair of clouds never gets more than one block, and its work grows as n^2 a bid: for clouds of far more than ten
// thousand points the rest of the device idles, and the CPU is the better place.
#pragma once

#include "points.h"

namespace pcdiff {
namespace gpu {

// The same bound as on the CPU; each bid looks at n objects, so the time is O(n^2) per bid and O(n^3) in all.
constexpr int64_t kMostBids = 400;    // a person, in each of the two launches
constexpr int64_t kPatientBids = 16;  // a person, in the first sale; then its increment was too small
constexpr double kShrink = 8;         // from one sale's increment to the next
// The gap after a sale is mostly near 0.55 of the increment; a last sale aims at this much of the tolerance.
constexpr double kGapInIncrements = 0.6;

template <class T>
struct AssignArgs {
  const T* x;  // clouds, n x dim each
  const T* y;
  int64_t tasks;
  int64_t columns;         // of a matrix of pairs: task r * columns + c is x's r with y's c. 0: task b is pair b
  bool upper;              // of a matrix only the entries with column > row; the others become 0
  int64_t n;
  int dim;
  const int64_t* lengths;  // tasks, or null
  double tolerance;        // cost - lower_bound <= tolerance * cost is aimed at
  // What the first launch does not bring to the tolerance, the second starts anew, in float64 and with y's points as
  // the persons: many equal persons outbid each other for one object at a time and run out of bids, where many equal
  // objects are no trouble.
  bool first_try;          // whether this is the first launch
  double* found;           // tasks x 2, scratch between the launches: cost and lower bound
  int* holds;              // tasks x n, scratch between the launches: the best assignment
  unsigned char* memory;   // workspace of every block, or null where it lies in shared memory
  int64_t memory_stride;
  int64_t* assignment;     // tasks x n, or null
  T* cost;                 // tasks
  T* lower_bound;          // tasks
};

// An object's coordinates and its price stand in one row. Up to three dimensions the row is one vector load.
PCDIFF_BOTH int row_width(int dim) { return dim <= kPackedDims ? 4 : dim + 1; }

// Bytes of a block's workspace: the objects' rows, then, for each point, one bidder, offer, amount, owner, holding,
// two places in queues and one wish. Every part starts at a multiple of 16 bytes.
template <class C>
PCDIFF_BOTH int64_t auction_bytes(int64_t n, int dim) {
  const int64_t even = (n + 3) / 4 * 4;
  return even * (row_width(dim) * static_cast<int64_t>(sizeof(C)) + 8 + 2 * static_cast<int64_t>(sizeof(C)) + 5 * 4);
}

// What a person finds: the least distance + price, where, and the second least. Places are counted from the person's
// own index on, around the end: of equally good objects the first in that order is taken, so that many equal persons
// do not all want the same one of many equal objects.
template <class C>
struct Offer {
  C best, second;
  int place;
};

PCDIFF_DEVICE int place_of(int object, int person, int n) {
  return object >= person ? object - person : object - person + n;
}
PCDIFF_DEVICE int object_at(int place, int person, int n) {
  return place < n - person ? place + person : place + person - n;
}

// The same whichever way the objects are split among threads.
template <class C>
PCDIFF_DEVICE Offer<C> better(const Offer<C>& a, const Offer<C>& b) {
  const bool swap = b.best < a.best || (b.best == a.best && b.place < a.place);
  const Offer<C>& won = swap ? b : a;
  const Offer<C>& lost = swap ? a : b;
  return {won.best, lost.best < won.second ? lost.best : won.second, won.place};
}

// Whether a cost is known and close enough to its lower bound.
PCDIFF_DEVICE bool certified(double cost, double bound, double tolerance) {
  return cost < infinity<double>() && cost - bound <= tolerance * cost;
}

template <class C, int kThreads>
struct AuctionShared {
  union {
    Offer<C> offers[kThreads];
    double sums[kThreads];
  };
  unsigned long long extent;
  // What changes seldom stands here instead of in every thread's registers. `unit` is what the clouds' size is about,
  // scaled: 1, but for float64 clouds too small for that.
  double scale, unit, cost, bound, increment;
  int* best_holds;
  int64_t bids;
  int waiting;  // persons without an object
  int coming;   // those of the next round
};

template <class T, class C, bool kPacked, class B>
class Auction {
 public:
  // With `turned`, y's points are the persons.
  PCDIFF_DEVICE Auction(const B& block, AuctionShared<C, B::kSize>& shared, const T* x, const T* y, bool turned,
                        int64_t n, int dim, unsigned char* memory)
      : block_(block),
        shared_(shared),
        x_(turned ? y : x),
        y_(turned ? x : y),
        turned_(turned),
        memory_(memory),
        n_(static_cast<int>(n)),
        dim_(dim) {}

  // Goes on from a bijection of mean distance `cost` in `best_holds`, if that is finite, and a lower bound; leaves the
  // best bijection there, from x to y.
  PCDIFF_DEVICE void solve(double tolerance, double cost, double bound, int* best_holds) {
    if (!set_up(cost, bound, best_holds)) return;
    next_increment(start());
    while (!certified(shared_.cost, shared_.bound, tolerance) && shared_.increment > resolution()) {
      const bool sold = sale();
      if (!sold) hand_out_the_rest();
      measure();
      if (!sold) break;
      const double present = shared_.increment, shorter = present / kShrink;
      const double last = tolerance * shared_.bound / kGapInIncrements;
      // Steps of nearly the same length to the last one; where that was not enough, half of it.
      next_increment(present <= last       ? present / 2
                     : shorter >= 3 * last ? shorter
                     : last > shorter / 4  ? last
                                           : shorter / 4);
    }
  }

  // Mean distance under the best bijection, and a bound that no bijection's goes below.
  PCDIFF_DEVICE double cost() const { return shared_.cost / shared_.scale; }
  PCDIFF_DEVICE double bound() const {
    const double out = shared_.bound / shared_.scale;
    // Only a subnormal quotient is rounded, or one beyond the largest number; the number below it is no higher then.
    return out * shared_.scale > shared_.bound ? from_bits(to_bits(out) - 1) : out;
  }

 private:
  using Mine = Packed<C>;

  static constexpr double kEpsilon = sizeof(C) == 4 ? 1.1920929e-7 : 2.220446049250313e-16;
  // Far more than a distance loses where a coordinate or a square falls below C's range, and far less than any
  // distance that matters to clouds whose size is about 1.
  static constexpr double kLost = sizeof(C) == 4 ? 1e-20 : 1e-150;

  PCDIFF_DEVICE Mine person(int i) const {
    Mine out{};
    if (kPacked) {
      out = packed_scaled(x_ + static_cast<int64_t>(i) * dim_);
    }
    return out;
  }

  PCDIFF_DEVICE Mine packed_scaled(const T* point) const {
    Mine out;
    PCDIFF_UNROLL
    for (int d = 0; d < kPackedDims; ++d) out.at[d] = d < dim_ ? scaled<C>(point[d]) : C{0};
    out.value = 0;
    return out;
  }

  // To a size of about 1 by a power of two: no square overflows. Nothing is rounded but what is smaller than the
  // largest coordinate by V's range, 2^126 in float32: `kLost` makes up for that.
  template <class V>
  PCDIFF_DEVICE V scaled(T coordinate) const {
    const V value = static_cast<V>(static_cast<double>(coordinate) * shared_.scale);
    // Beyond the extent lies only what all points share, which any other shared value can stand for.
    return value < V{4} && value > V{-4} ? value : V{0};
  }

  PCDIFF_DEVICE C price(int j) const { return row(j)[width() - 1]; }

  // The distance and the price of object j, for person i, roughly.
  PCDIFF_DEVICE C distance(const Mine& mine, int i, int j, C* object_price) const {
    if (kPacked) {
      const Mine object = *reinterpret_cast<const Mine*>(row(j));
      *object_price = object.value;
      const C dx = mine.at[0] - object.at[0], dy = mine.at[1] - object.at[1], dz = mine.at[2] - object.at[2];
      return quick_root(dx * dx + dy * dy + dz * dz);
    }
    const C* const object = row(j);
    const T* const point = x_ + static_cast<int64_t>(i) * dim_;
    C sum = 0;
    for (int d = 0; d < dim_; ++d) {
      const C difference = scaled<C>(point[d]) - object[d];
      sum += difference * difference;
    }
    *object_price = object[dim_];
    return quick_root(sum);
  }

  // The distance in float64. The coordinates are exact in either precision, but for `kLost`.
  PCDIFF_DEVICE double exact_distance(int i, int j) const {
    const T* const point = x_ + static_cast<int64_t>(i) * dim_;
    const C* const object = row(j);
    double sum = 0;
    for (int d = 0; d < dim_; ++d) {
      const double difference = scaled<double>(point[d]) - static_cast<double>(object[d]);
      sum += difference * difference;
    }
    return square_root(sum);
  }

  // The larger of `largest` and what a coordinate adds to the clouds' extent: nothing if it is the same as the first
  // point's, because a coordinate that all points share is no part of any distance. Infinity if it is not finite.
  PCDIFF_DEVICE static double reach(double largest, T coordinate, T firsts) {
    const double a = fabs(static_cast<double>(coordinate)), b = fabs(static_cast<double>(firsts));
    if (!(a - a == 0)) return infinity<double>();
    if (coordinate == firsts) return largest;
    // The first point's own is seen to be finite when it is the coordinate.
    const double larger = a < b ? b : a;
    return largest < larger ? larger : largest;
  }

  // Adds the threads' values in a fixed order.
  PCDIFF_DEVICE double total(typename B::template PerThread<double>& values) const {
    block_.each([&](int t) { shared_.sums[t] = values[t]; });
    combine_groups(block_, shared_.sums, B::kSize, [](double a, double b) { return a + b; });
    return block_.agree(shared_.sums[0]);
  }

  // False if a coordinate is NaN or infinite, which only happens where nobody could ask before (in a CUDA graph): the
  // results then are NaN and some bijection.
  PCDIFF_DEVICE bool set_up(double cost, double bound, int* best_holds) {
    block_.each([&](int t) {
      if (t == 0) shared_.extent = 0;
    });
    block_.each([&](int t) {
      double largest = 0;
      PCDIFF_NO_UNROLL
      for (int i = t; i < n_; i += B::kSize) {
        const int64_t at = static_cast<int64_t>(i) * dim_;
        PCDIFF_NO_UNROLL
        for (int d = 0; d < dim_; ++d) largest = reach(reach(largest, x_[at + d], x_[d]), y_[at + d], x_[d]);
      }
      atomic_max(&shared_.extent, to_bits(largest));
    });
    const double extent = from_bits(block_.agree(shared_.extent));
    const bool finite = extent < infinity<double>();
    // The scale is 2^-e for an extent in [2^e, 2^(e + 1)), as far as that is a number: subnormal extents are brought
    // to 2^-74 or more.
    const int exponent = extent > 0 && finite ? ilogb(extent) : 0;
    const double scale = ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
    stamp_ = 0;
    block_.each([&](int t) {
      if (t != 0) return;
      shared_.scale = scale;
      shared_.unit = exponent < -1000 ? ldexp(1.0, exponent + 1000) : 1.0;
      shared_.cost = cost * scale;
      shared_.bound = bound * scale;
      shared_.best_holds = best_holds;
      shared_.bids = 0;
      if (!finite) shared_.cost = shared_.bound = extent - extent;
    });
    block_.each([&](int t) {
      for (int i = t; i < n_ && !finite; i += B::kSize) shared_.best_holds[i] = i;
    });
    if (!finite) return false;
    block_.each([&](int t) {
      for (int j = t; j < n_; j += B::kSize) {
        C* const object = row(j);
        for (int d = 0; d < width() - 1; ++d) {
          object[d] = d < dim_ ? scaled<C>(y_[static_cast<int64_t>(j) * dim_ + d]) : C{0};
        }
        object[width() - 1] = 0;
        bidder()[j] = 0;
        offer()[j] = 0;
        holds()[j] = 0;
        owner()[j] = n_;
      }
    });
    return true;
  }

  // Gives everybody the nearest object, as far as no two want the same, which often proves an optimum already. Returns
  // the first increment: the mean distance to the nearest, which bounds the cost from below and is mostly within a
  // small factor of it.
  PCDIFF_DEVICE double start() {
    typename B::template PerThread<double> far;
    measure_with(true);
    block_.each([&](int t) {
      far[t] = 0;
      for (int i = t; i < n_; i += B::kSize) {
        if (owner()[holds()[i]] != i) holds()[i] = -1;
        far[t] += exact_distance(i, 0);
      }
    });
    block_.each([&](int t) {
      for (int j = t; j < n_; j += B::kSize) owner()[j] = owner()[j] == n_ ? -1 : owner()[j];
    });
    const double mean_far = total(far) / n_;
    hand_out_the_rest();
    keep();
    // Many points on top of each other: any length of the clouds' own will do.
    return shared_.bound > 0 ? shared_.bound : mean_far > 0 ? mean_far / 64 : shared_.unit;
  }

  // Below this, adding an increment to a price would round most of it away.
  PCDIFF_DEVICE double resolution() {
    block_.each([&](int t) {
      if (t == 0) shared_.extent = to_bits(shared_.unit);
    });
    block_.each([&](int t) {
      double highest = shared_.unit;
      for (int j = t; j < n_; j += B::kSize) highest = price(j) > highest ? static_cast<double>(price(j)) : highest;
      atomic_max(&shared_.extent, to_bits(highest));
    });
    return from_bits(block_.agree(shared_.extent)) * 16 * kEpsilon;
  }

  PCDIFF_DEVICE void next_increment(double increment) {
    block_.each([](int) {});  // all have read the present one
    block_.each([&](int t) {
      if (t == 0) shared_.increment = increment;
    });
  }

  // Sells all objects anew. False if the bids run out first.
  PCDIFF_DEVICE bool sale() {
    const bool first = block_.agree(shared_.bids) == 0;
    int64_t patience = kPatientBids * n_;
    C step = static_cast<C>(shared_.increment);
    block_.each([&](int t) {
      for (int i = t; i < n_; i += B::kSize) {
        holds()[i] = owner()[i] = -1;
        queue()[i] = i;
      }
      if (t == 0) {
        shared_.waiting = n_;
        shared_.coming = 0;
      }
    });
    while (true) {
      const int waiting = block_.agree(shared_.waiting);
      if (waiting == 0) return true;
      const int64_t bids = shared_.bids;
      if (bids + waiting > kMostBids * n_) return false;
      if (first && bids > patience) {
        step *= 4;
        patience += kPatientBids * n_;
      }
      bid(waiting, step);
      settle(waiting);
    }
  }

  PCDIFF_DEVICE void bid(int waiting, C step) {
    int team = B::kSize;
    while (team > 1 && static_cast<int64_t>(team) * waiting > B::kSize) team /= 2;
    const int groups = B::kSize / team;
    for (int first = 0; first < waiting; first += groups) {
      block_.each([&](int t) {
        const int place = first + t / team;
        Offer<C> found{infinity<C>(), infinity<C>(), n_};
        if (place < waiting) {
          const int i = queue()[place];
          const Mine mine = person(i);
          PCDIFF_UNROLL_BY_4
          for (int j = t & (team - 1); j < n_; j += team) {
            C object_price;
            const C away = distance(mine, i, j, &object_price);
            const C value = away + object_price;
            if (value > found.best) {
              found.second = smaller(found.second, value);
            } else {
              found = better(found, {value, infinity<C>(), place_of(j, i, n_)});
            }
          }
        }
        shared_.offers[t] = found;
      });
      combine_groups(block_, shared_.offers, team, [](const Offer<C>& a, const Offer<C>& b) { return better(a, b); });
      block_.each([&](int t) {
        const int place = first + t / team;
        if ((t & (team - 1)) != 0 || place >= waiting) return;
        const Offer<C> found = shared_.offers[t];
        const int object = object_at(found.place < n_ ? found.place : 0, queue()[place], n_);
        const C bid_price = price(object) + ((found.second - found.best) + step);
        wish()[place] = object;
        amount()[place] = bid_price;
        atomic_max(&offer()[object], to_bits(bid_price));
      });
    }
  }

  PCDIFF_DEVICE void settle(int waiting) {
    // Later rounds' bidders beat earlier ones', so nothing needs clearing; within one, the smallest person wins.
    const unsigned long long round = (stamp_ + 1ull) << 32;
    const auto ticket = [round](int i) { return round | (0xffffffffull - static_cast<unsigned>(i)); };
    block_.each([&](int t) {
      for (int place = t; place < waiting; place += B::kSize) {
        const int j = wish()[place];
        if (offer()[j] == to_bits(amount()[place])) atomic_max(&bidder()[j], ticket(queue()[place]));
      }
    });
    block_.each([&](int t) {
      for (int place = t; place < waiting; place += B::kSize) {
        const int i = queue()[place], j = wish()[place];
        int loser = i;
        if (bidder()[j] == ticket(i)) {
          loser = owner()[j];
          owner()[j] = i;
          holds()[i] = j;
          row(j)[width() - 1] = amount()[place];
          offer()[j] = 0;
          if (loser >= 0) holds()[loser] = -1;
        }
        if (loser >= 0) next_queue()[atomic_add(&shared_.coming, 1)] = loser;
      }
    });
    block_.each([&](int t) {
      if (t == 0) {
        shared_.bids += waiting;
        shared_.waiting = shared_.coming;
        shared_.coming = 0;
      }
    });
    ++stamp_;
  }

  // The bids ran out: persons without an object take those without an owner, in order.
  PCDIFF_DEVICE void hand_out_the_rest() {
    block_.each([&](int t) {
      if (t != 0) return;
      int j = 0;
      for (int i = 0; i < n_; ++i) {
        if (holds()[i] >= 0) continue;
        while (owner()[j] >= 0) ++j;
        owner()[j] = i;
        holds()[i] = j;
      }
    });
  }

  PCDIFF_DEVICE void measure() {
    measure_with(false);
    keep();
  }

  // The bound that the prices prove, in float64. With `choose`, everybody also takes the object of least distance +
  // price, and `owner`, which must hold n or more before, gets the smallest of those who took it.
  PCDIFF_DEVICE void measure_with(bool choose) {
    typename B::template PerThread<double> least, prices;
    // The rough value is right to a quarter unit in its last place for each square added, and a few more: most objects
    // are ruled out by it.
    const double safely = 1 - (32 + dim_) * kEpsilon;
    block_.each([&](int t) {
      least[t] = prices[t] = 0;
      PCDIFF_NO_UNROLL
      for (int i = t; i < n_; i += B::kSize) {
        prices[t] += static_cast<double>(price(i));
        const Mine mine = person(i);
        double best = infinity<double>();
        int object = 0;
        PCDIFF_NO_UNROLL
        for (int j = 0; j < n_; ++j) {
          C object_price;
          const C rough = distance(mine, i, j, &object_price) + object_price;
          if (static_cast<double>(rough) * safely - kLost > best) continue;
          const double value = exact_distance(i, j) + static_cast<double>(object_price);
          if (value < best || (choose && value == best && place_of(j, i, n_) < place_of(object, i, n_))) {
            best = value;
            object = j;
          }
        }
        least[t] += best;
        if (choose) {
          holds()[i] = object;
          atomic_min(reinterpret_cast<unsigned*>(&owner()[object]), static_cast<unsigned>(i));
        }
      }
    });
    const double all_least = total(least), all_prices = total(prices);
    // Each distance is right to a few units in the last place and one for each square added, and the sums' errors grow
    // with their length at most.
    const double units = 16 + dim_ + n_ / static_cast<double>(B::kSize);
    const double margin = units * 2.3e-16 * (all_least + all_prices);
    const double dual = (all_least - all_prices - margin) / n_ - kLost;
    raise_bound(dual);
  }

  PCDIFF_DEVICE void raise_bound(double bound) {
    block_.each([&](int t) {
      if (t == 0 && bound > shared_.bound) shared_.bound = bound;
    });
  }

  // Takes the present bijection as the best one if it is.
  PCDIFF_DEVICE void keep() {
    typename B::template PerThread<double> lengths;
    block_.each([&](int t) {
      lengths[t] = 0;
      PCDIFF_NO_UNROLL
      for (int i = t; i < n_; i += B::kSize) lengths[t] += exact_distance(i, holds()[i]);
    });
    const double cost = total(lengths) / n_;
    if (cost < block_.agree(shared_.cost)) {
      block_.each([&](int t) {
        for (int i = t; i < n_; i += B::kSize) {
          const int j = holds()[i];
          shared_.best_holds[turned_ ? j : i] = turned_ ? i : j;
        }
        if (t == 0) shared_.cost = cost;
      });
    }
    // Rounding aside, the bound lies below every cost.
    block_.each([&](int t) {
      if (t == 0 && shared_.bound > shared_.cost) shared_.bound = shared_.cost;
    });
  }

  // The parts of the workspace. Addresses are worked out anew each time: kept in registers, they would be too many.
  PCDIFF_DEVICE int width() const { return kPacked ? row_width(kPackedDims) : dim_ + 1; }
  PCDIFF_DEVICE int64_t even() const { return (static_cast<int64_t>(n_) + 3) / 4 * 4; }
  PCDIFF_DEVICE C* row(int j) const { return reinterpret_cast<C*>(memory_) + static_cast<int64_t>(j) * width(); }
  PCDIFF_DEVICE unsigned long long* bidder() const {
    return reinterpret_cast<unsigned long long*>(row(0) + even() * width());
  }
  PCDIFF_DEVICE Bits<C>* offer() const { return reinterpret_cast<Bits<C>*>(bidder() + even()); }
  PCDIFF_DEVICE C* amount() const { return reinterpret_cast<C*>(offer() + even()); }
  PCDIFF_DEVICE int* owner() const { return reinterpret_cast<int*>(amount() + even()); }
  PCDIFF_DEVICE int* holds() const { return owner() + even(); }
  PCDIFF_DEVICE int* wish() const { return owner() + 2 * even(); }
  // Who bids this round, and who will in the next; they change places after each.
  PCDIFF_DEVICE int* queue() const { return owner() + (3 + (stamp_ & 1)) * even(); }
  PCDIFF_DEVICE int* next_queue() const { return owner() + (4 - (stamp_ & 1)) * even(); }

  const B& block_;
  AuctionShared<C, B::kSize>& shared_;
  const T* const x_;  // the persons
  const T* const y_;  // the objects
  const bool turned_;
  unsigned char* const memory_;
  const int n_, dim_;
  unsigned stamp_;  // rounds so far; the same in all threads
};

// Rounding to T must not lift a lower bound above the truth.
PCDIFF_DEVICE double rounded_down(double value, double) { return value; }
PCDIFF_DEVICE float rounded_down(double value, float) {
  const float rounded = static_cast<float>(value);
  // The bound is not negative, so the next number below has the bits before.
  return static_cast<double>(rounded) > value ? from_bits(to_bits(rounded) - 1) : rounded;
}

template <class T, class C, bool kPacked, class B>
PCDIFF_DEVICE void assign_body(const B& block, AuctionShared<C, B::kSize>& shared, unsigned char* memory,
                               const AssignArgs<T>& a, int64_t task) {
  const bool matrix = a.columns > 0;
  const int64_t row = matrix ? task / a.columns : task, column = matrix ? task % a.columns : task;
  if (matrix && a.upper && column <= row) {
    block.each([&](int t) {
      if (t == 0) a.cost[task] = a.lower_bound[task] = 0;
    });
    return;
  }
  // What results keep of the tolerance after rounding to T.
  const double epsilon = sizeof(T) == 4 ? 1.1920929e-7 : 2.220446049250313e-16;
  const double tolerance = a.tolerance > 32 * epsilon ? a.tolerance - 4 * epsilon : 0;
  double* const found = a.found + 2 * task;
  // Every thread reads before any may write.
  const double cost_before = a.first_try ? infinity<double>() : block.agree(found[0]);
  const double bound_before = a.first_try ? 0 : block.agree(found[1]);
  if (certified(cost_before, bound_before, tolerance)) return;

  const int64_t n = length_of(a.lengths, task, a.n);
  int* const holds = a.holds + task * a.n;
  const int64_t size = a.n * a.dim;
  Auction<T, C, kPacked, B> auction(block, shared, a.x + row * size, a.y + column * size, !a.first_try, n, a.dim,
                                    memory);
  auction.solve(tolerance, cost_before, bound_before, holds);
  const double cost = auction.cost(), bound = auction.bound();
  block.each([&](int t) {
    if (t == 0) {
      found[0] = cost;
      found[1] = bound;
      a.cost[task] = static_cast<T>(cost);
      a.lower_bound[task] = rounded_down(bound, T{});
    }
    if (a.assignment == nullptr) return;
    int64_t* const out = a.assignment + task * a.n;
    for (int64_t i = t; i < a.n; i += B::kSize) out[i] = i < n ? holds[i] : i;
  });
}

}  // namespace gpu
}  // namespace pcdiff
