// Model Breadcrumbs (arXiv 2312.06795): of every task vector, along the last axis of each tensor,
// the int(n * gamma) largest entries are removed as outliers and of the others the
// int(n * density) largest are kept; theta = theta_0 + lambda * sum of what is left. A scalar's
// task vector stays as it is.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

struct Shares {
  double density = 0;
  double gamma = 0;
  double lambda = 0;
};

// A magnitude as its bit pattern, which orders like it. Signed, since vectors compare that.
template <class T>
using KeyOf = std::conditional_t<sizeof(T) == sizeof(float), int32_t, int64_t>;
template <class Key>
constexpr Key kMostKey = std::numeric_limits<Key>::max();

// The keys above 0.
template <class Key>
struct Extent {
  int64_t count = 0;
  Key least = 0, most = 0;
};

// Counts of keys are of their type, so that loops have one width, in blocks in which they fit.
constexpr int64_t kCountBlock = int64_t{1} << 20;

// Entries that do not count have key 0: like zeros, they change no sum that is kept.
template <class T, class Key = KeyOf<T>>
ORTHOMERGE_PER_CPU Extent<Key> FindKeys(const T* __restrict row, const uint8_t* __restrict counts,
                                        int64_t n, Key* __restrict keys) {
  for (int64_t i = 0; i < n; ++i) keys[i] = std::bit_cast<Key>(std::abs(row[i]));
  for (int64_t i = 0; counts != nullptr && i < n; ++i) keys[i] = counts[i] != 0 ? keys[i] : 0;
  Extent<Key> extent = {0, kMostKey<Key>, 0};
  for (int64_t first = 0; first < n; first += kCountBlock) {
    const int64_t end = std::min(first + kCountBlock, n);
    Key count = 0, least = extent.least, most = extent.most;
    for (int64_t i = first; i < end; ++i) {
      const Key key = keys[i], is_there = key != 0;
      count += is_there;
      least = std::min<Key>(least, key | ((is_there - 1) & kMostKey<Key>));
      most = std::max(most, key);
    }
    extent = {extent.count + count, least, most};
  }
  return extent;
}

// What is on both sides of a key.
template <class Key>
struct Sides {
  int64_t above = 0, equal = 0;  // keys
  Key next_above = 0, next_below = 0;
};

template <class Key>
ORTHOMERGE_PER_CPU Sides<Key> Around(const Key* keys, int64_t n, Key at) {
  Sides<Key> sides = {0, 0, kMostKey<Key>, 0};
  for (int64_t first = 0; first < n; first += kCountBlock) {
    const int64_t end = std::min(first + kCountBlock, n);
    Key above = 0, equal = 0, next_above = sides.next_above, next_below = sides.next_below;
    for (int64_t i = first; i < end; ++i) {
      const Key key = keys[i], is_above = key > at, is_below = key < at;
      above += is_above;
      equal += key == at;
      // Without branches: the largest number where it is not above, 0 where it is not below.
      next_above = std::min<Key>(next_above, key | ((is_above - 1) & kMostKey<Key>));
      next_below = std::max<Key>(next_below, key & (0 - is_below));
    }
    sides = {sides.above + above, sides.equal + equal, next_above, next_below};
  }
  return sides;
}

// The index of the key that has so many equal ones before it; reads whole blocks.
constexpr int64_t kEqualBlock = 64;
template <class Key>
ORTHOMERGE_PER_CPU int64_t IndexOf(const Key* keys, Key key, int64_t before) {
  int64_t first = 0;
  for (;; first += kEqualBlock) {
    Key equal = 0;
    for (int64_t i = first; i < first + kEqualBlock; ++i) equal += keys[i] == key ? 1 : 0;
    if (before < equal) break;
    before -= equal;
  }
  while (keys[first] != key || before-- > 0) ++first;
  return first;
}

// Adds the entries whose keys are from `low` to before `high`.
template <class T, class Key = KeyOf<T>>
ORTHOMERGE_PER_CPU void AddRange(const Key* __restrict keys, Key low, Key high,
                                 const T* __restrict row, int64_t n, T* __restrict sum) {
  for (int64_t i = 0; i < n; ++i) {
    const T entry = row[i];
    sum[i] += (keys[i] >= low) & (keys[i] < high) ? entry : T{0};
  }
}

// Adds up those entries of rows that are neither among the `top` largest nor behind the `kept` next
// ones, by magnitude; the lower index is the larger of equal ones.
template <class T>
class RowCut {
 public:
  using Key = KeyOf<T>;
  // Keys near which the two cuts of a row are looked for first.
  using Guess = std::array<Key, 2>;

  RowCut(const Shares& shares, int64_t elements)
      : shares_(shares), elements_(elements), keys_(static_cast<size_t>(elements) + kEqualBlock) {}

  // The next rows' `counts`, as in Region.
  void Begin(const uint8_t* counts) {
    counts_ = counts;
    int64_t n = elements_;
    if (counts != nullptr) n -= std::count(counts, counts + n, 0);
    top_ = static_cast<int64_t>(static_cast<double>(n) * shares_.gamma);
    kept_ = std::min(static_cast<int64_t>(static_cast<double>(n) * shares_.density), n - top_);
  }

  void AddTo(T* sum, const T* row, Guess* guess) {
    if (kept_ <= 0) return;
    const Extent<Key> extent = FindKeys(row, counts_, elements_, keys_.data());
    if (top_ >= extent.count) return;
    const Place first = Find(top_, extent, &(*guess)[0]);
    const Place last = Find(std::min(top_ + kept_, extent.count) - 1, extent, &(*guess)[1]);
    const auto [low, high] = std::minmax({first.index, last.index + 1});
    AddSpan(first, last, 0, low, sum, row);
    AddSpan(first, last, low, high, sum, row);
    AddSpan(first, last, high, elements_, sum, row);
  }

 private:
  struct Place {
    Key key = 0;
    int64_t index = 0;
  };

  // Where the entry of a rank is, which is not 0: counts what is above a key that comes ever
  // nearer, as far away as the ranks say, or half way where that does not get on.
  Place Find(int64_t rank, const Extent<Key>& extent, Key* guess) const {
    Key low = extent.least, high = extent.most;
    int64_t from_low = extent.count, above_high = 0;  // keys
    Key at = *guess;
    for (int steps = 0;; ++steps) {
      if (at < low || at > high) {
        const double share = steps > kMostSteps ? 0.5
                                                : (static_cast<double>(from_low - rank) - 0.5) /
                                                      static_cast<double>(from_low - above_high);
        at = low + static_cast<Key>(static_cast<double>(high - low) * share);
      }
      const Sides<Key> sides = Around(keys_.data(), elements_, at);
      if (rank < sides.above) {
        low = sides.next_above;
        from_low = sides.above;
      } else if (rank < sides.above + sides.equal) {
        *guess = at;
        return {at, IndexOf(keys_.data(), at, rank - sides.above)};
      } else {
        high = sides.next_below;
        above_high = sides.above + sides.equal;
      }
    }
  }
  static constexpr int kMostSteps = 12;

  // Of the elements from `begin` to `end`, on one side of the places.
  void AddSpan(const Place& first, const Place& last, int64_t begin, int64_t end, T* sum,
               const T* row) const {
    const Key high = first.key + (begin >= first.index ? 1 : 0);
    const Key low = last.key + (begin > last.index ? 1 : 0);
    if (high > low) AddRange(&keys_[begin], low, high, row + begin, end - begin, sum + begin);
  }

  const Shares shares_;
  const int64_t elements_;
  const uint8_t* counts_ = nullptr;
  int64_t top_ = 0, kept_ = 0;
  std::vector<Key> keys_;
};

template <class T>
ORTHOMERGE_PER_CPU void AddToBase(const T* __restrict base, T lambda, int64_t n,
                                  T* __restrict sum) {
  for (int64_t i = 0; i < n; ++i) sum[i] = base[i] + lambda * sum[i];
}

class BreadcrumbsProgram : public TypedProgram<BreadcrumbsProgram> {
 public:
  explicit BreadcrumbsProgram(const Shares& shares) : shares_(shares) {}

  Access access() const override { return Access::kRow; }

  template <class T>
  void EmitAs(const Region& region, const Solved&, T* out) const {
    const int64_t columns = region.columns;
    RowCut<T> cut(shares_, columns);
    std::vector<typename RowCut<T>::Guess> guesses(region.rows.size());
    std::fill_n(out, region.elements, T{0});
    for (int64_t row = 0; row < region.elements; row += columns) {
      cut.Begin(region.counts == nullptr ? nullptr : region.counts + row);
      for (size_t k = 0; k < region.rows.size(); ++k) {
        cut.AddTo(out + row, region.row_as<T>(k) + row, &guesses[k]);
      }
    }
    AddToBase(region.base_as<T>(), static_cast<T>(shares_.lambda), region.elements, out);
    CarryNonFinite(region, out);
  }

  int64_t working_bytes(int64_t elements) const override {
    return elements * 8 + 512;  // keys of a row
  }
  std::string description() const override { return "outliers and small entries masked, added"; }

 private:
  const Shares shares_;
};

class Breadcrumbs : public Method {
 public:
  explicit Breadcrumbs(const MethodSpec& spec)
      : parameters_(spec.parameters),
        shares_{NumberOf(parameters_, "density"), NumberOf(parameters_, "gamma"),
                NumberOf(parameters_, "lambda")} {}

  bool wants_task_vectors() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    if (tensor.shape.empty()) {
      return MakeWeightedSum(std::vector<double>(tensor.models, shares_.lambda),
                             /*add_base=*/true, "base plus task vectors (scalar)");
    }
    return std::make_unique<BreadcrumbsProgram>(shares_);
  }

 private:
  const ParameterMap parameters_;
  const Shares shares_;
};

}  // namespace

std::unique_ptr<Method> MakeBreadcrumbs(const MethodSpec& spec) {
  return std::make_unique<Breadcrumbs>(spec);
}

}  // namespace orthomerge
