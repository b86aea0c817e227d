// Inner products of a tensor's rows, and programs that need nothing else: every result in the span
// of the rows has coefficients that follow from the Gram matrix alone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/methods/method.h"

namespace orthomerge {

inline size_t PairsOf(int k) { return static_cast<size_t>(k) * (k + 1) / 2; }

// Adds the products of all pairs a <= b of rows, row by row, to PairsOf(k) times kLanes lanes. Rows
// are of the working dtype and start at a multiple of kLanes elements from their leaf's start.
void AddGram(absl::Span<const void* const> rows, bool f64, int64_t elements,
             absl::Span<double> lanes);

// The same of the rows of a region.
void AddGram(const Region& region, absl::Span<double> lanes);

// A full symmetric matrix from its pairs: (0,0), (0,1) ... (0,k-1), (1,1) ...
std::vector<double> FullGram(absl::Span<const double> pairs, int k);

// The full Gram matrix of whole rows of `elements` elements. Elements whose `counts` is 0 are left
// out (null: none).
std::vector<double> GramOf(absl::Span<const void* const> rows, bool f64, int64_t elements,
                           const uint8_t* counts);

// The same of a region alone.
std::vector<double> GramOf(const Region& region);

// Some consecutive elements of a region, as a region; lives no longer than that one.
class RegionSlice {
 public:
  RegionSlice(const Region& region, int64_t first, int64_t count);
  RegionSlice(const RegionSlice&) = delete;
  RegionSlice& operator=(const RegionSlice&) = delete;

  const Region& region() const { return slice_; }

 private:
  std::vector<void*> rows_;
  Region slice_;
};

// A program that emits sum_k c[k] v[k] with coefficients that `solve` finds from the Gram matrix of
// the vectors v in one ordered round of the tensor's own.
struct GramMerge {
  enum class Base {
    kNone,    // v are the rows, and nothing is added
    kAdded,   // v are the rows, and the base is added
    kVector,  // v[0] is the base, then come the rows
  };
  using Solve =
      std::function<absl::StatusOr<std::vector<double>>(const std::vector<double>& gram, int k)>;

  Base base = Base::kNone;
  Solve solve;
  std::string description;
};
std::unique_ptr<TensorProgram> MakeGramMerge(const OutputTensor& tensor, int first_round,
                                             GramMerge merge);
// What rounds() of a method with such programs returns.
std::vector<Round> GramRounds();

}  // namespace orthomerge
