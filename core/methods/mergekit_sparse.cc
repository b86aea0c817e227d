// mergekit's task-vector methods: every task vector d_m of a tensor is made sparse
// (mergekit_sparsity.h), then b + lambda * sum_m w_m d_m, of methods that elect over those entries
// w_m d_m that have the elected sign (+ where all entries add up to 0 or more). `normalize` divides
// by the sum of the weights of the entries that were added (of methods that elect nothing: of all
// models). `rescale` multiplies a sparse task vector so that its magnitudes add up to what they did
// before.
#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/math/kernels.h"
#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/mergekit.h"
#include "core/methods/mergekit_sparsity.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

struct Kind {
  const char* name;
  SparsityKind sparsity;
  bool elects;
};

constexpr std::array kKinds = {
    Kind{"mergekit.breadcrumbs", SparsityKind::kOutliers, false},
    Kind{"mergekit.breadcrumbs_ties", SparsityKind::kOutliers, true},
    Kind{"mergekit.dare_linear", SparsityKind::kRandom, false},
    Kind{"mergekit.dare_ties", SparsityKind::kRandom, true},
    Kind{"mergekit.della", SparsityKind::kRankedRandom, true},
    Kind{"mergekit.della_linear", SparsityKind::kRankedRandom, false},
    Kind{"mergekit.task_arithmetic", SparsityKind::kNone, false},
    Kind{"mergekit.ties", SparsityKind::kMagnitude, true},
};

struct Settings {
  bool elects = false, normalize = false, rescale = false;
  double lambda = 1;
};

// The divisor of methods that elect nothing.
double TotalWeight(const std::vector<SparseRow>& rows) {
  double total = 0;
  for (const SparseRow& row : rows) total += row.weight;
  return std::abs(total) < 1e-8 ? 1 : total;
}

// Rows are taken in blocks, which stay in the cache.
constexpr int64_t kBlock = 256;

// What is kept of a row's block; 0 for the rest.
template <class T>
ORTHOMERGE_PER_CPU void Take(const T* __restrict x, const uint8_t* __restrict keep, int64_t count,
                             T* __restrict kept) {
  for (int64_t i = 0; i < count; ++i) {
    const T own = x[i];
    kept[i] = keep[i] != 0 ? own : T{0};
  }
}

// sums += c rows, of some rows.
template <class T, size_t kRows>
ORTHOMERGE_PER_CPU void Add(const std::array<const T*, kRows>& rows, const double* c, int64_t count,
                            double* __restrict sums) {
  for (int64_t i = 0; i < count; ++i) {
    double sum = sums[i];
    for (size_t r = 0; r < kRows; ++r) sum += c[r] * rows[r][i];
    sums[i] = sum;
  }
}

class SparseProgram : public TypedProgram<SparseProgram> {
 public:
  SparseProgram(const OutputTensor& tensor, const Settings& settings, Sparsity sparsity,
                int norm_round, int first_round)
      : index_(tensor.index),
        ranked_(tensor.shape.size() < 2 ? tensor.elements() : tensor.shape[1]),
        settings_(settings),
        sparsity_(std::move(sparsity)),
        norm_round_(norm_round),
        first_round_(first_round) {}

  Access access() const override { return sparsity_.by_row() ? Access::kRow : Access::kElement; }
  // Ranks are along the second axis, so that a row has all axes behind the first.
  int64_t row_elements(const OutputTensor& tensor) const override { return tensor.slice(); }

  bool takes_part(int round) const override {
    if (round == norm_round_) return settings_.rescale && sparsity_.keeps_some();
    return sparsity_.selection().takes_part(round);
  }
  bool needs_round(int round, const Solved& solved) const override {
    return round == norm_round_ || sparsity_.selection().needs_round(round, solved);
  }
  int64_t width(int round) const override {
    return round == norm_round_ ? 2 * static_cast<int64_t>(sparsity_.rows().size())
                                : sparsity_.selection().width();
  }

  // Of the norms: what multiplies each row; 1 for tiny ones.
  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    if (round != norm_round_) return sparsity_.Solve(round, partial, solved);
    std::vector<double> ratios;
    for (size_t k = 0; k < sparsity_.rows().size(); ++k) {
      const double before = partial.sums[2 * k], after = partial.sums[2 * k + 1];
      ratios.push_back(before < 1e-7 || after < 1e-7 ? 1.0 : before / after);
    }
    return ratios;
  }

  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeldAs(int round, const HeldTensor& tensor) const {
    if (round == norm_round_) return std::vector<double>();
    return sparsity_.SolveHeld<T>(round, tensor);
  }
  int64_t held_bytes() const override { return sparsity_.selection().held_bytes(); }

  template <class T>
  ORTHOMERGE_PER_CPU void AccumulateAs(int round, const Region& region, const Solved& solved,
                                       Accumulator& partial) const {
    if (round != norm_round_) return sparsity_.Count<T>(round, region, solved, partial);
    std::vector<uint8_t> keep;
    T kept[kBlock];
    for (size_t k = 0; k < sparsity_.rows().size(); ++k) {
      if (sparsity_.rows()[k].kept != SparseRow::kSome) continue;
      sparsity_.Keep<T>(region, k, solved, &keep);
      double* lanes = &partial.lanes[2 * k * kLanes];
      AddMagnitudes(region.row_as<T>(k), region.elements, lanes);
      for (int64_t first = 0; first < region.elements; first += kBlock) {
        const int64_t count = std::min(kBlock, region.elements - first);
        Take(region.row_as<T>(k) + first, &keep[first], count, kept);
        AddMagnitudes(kept, count, lanes + kLanes);
      }
    }
  }

  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, const Solved& solved, T* out) const {
    double vote[kBlock], elected[kBlock], weight[kBlock];
    const size_t models = sparsity_.rows().size();
    std::vector<std::vector<uint8_t>> keep(models);
    for (size_t k = 0; k < models; ++k) sparsity_.Keep<T>(region, k, solved, &keep[k]);
    const std::vector<double> c = Factors(solved);
    std::vector<double> weights;
    for (const SparseRow& row : sparsity_.rows()) weights.push_back(row.weight);
    const double total = TotalWeight(sparsity_.rows()), lambda = settings_.lambda;
    std::vector<T> kept(models * kBlock);
    std::vector<void*> rows;
    for (size_t k = 0; k < models; ++k) rows.push_back(&kept[k * kBlock]);
    Region block;
    block.rows = rows;
    for (int64_t start = 0; start < region.elements; start += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - start);
      for (size_t k = 0; k < models; ++k) {
        Take(region.row_as<T>(k) + start, &keep[k][start], count, &kept[k * kBlock]);
      }
      std::fill_n(vote, count, 0.0);
      ForRows<T>(block, 0, [&](const auto& some, size_t k) { Add(some, &c[k], count, vote); });
      const double* sum = vote;
      std::fill_n(weight, count, settings_.elects ? 0.0 : total);
      if (settings_.elects) {
        TakeSigns(count, vote);
        std::fill_n(elected, count, 0.0);
        ForRows<T>(block, 0, [&](const auto& some, size_t k) {
          AddElected(some, &c[k], &weights[k], count, vote, elected, weight);
        });
        sum = elected;
      }
      const T* base = region.base_as<T>() + start;
      T* merged = out + start;
      if (settings_.normalize) {
        for (int64_t i = 0; i < count; ++i) {
          // Weights that cancel out, as far as float64 can tell, divide by nothing.
          const double quotient = sum[i] / weight[i];
          const double mean = std::abs(weight[i]) > 1e-12 ? quotient : sum[i];
          merged[i] = static_cast<T>(base[i] + lambda * mean);
        }
      } else {
        for (int64_t i = 0; i < count; ++i) merged[i] = static_cast<T>(base[i] + lambda * sum[i]);
      }
    }
    CarryNonFinite(region, out);
  }

  int64_t working_bytes(int64_t elements) const override {
    const auto rows = static_cast<int64_t>(sparsity_.rows().size());
    return (rows + 8) * elements + 2048 * rows +
           (sparsity_.by_row() ? 48 * ranked_ + (int64_t{64} << 10) : 0);
  }
  std::string description() const override {
    return settings_.elects ? "made sparse, sign elected, added" : "made sparse, added";
  }

 private:
  // What multiplies the kept entries of each row.
  std::vector<double> Factors(const Solved& solved) const {
    std::vector<double> c;
    const bool rescales = takes_part(norm_round_);
    for (size_t k = 0; k < sparsity_.rows().size(); ++k) {
      const SparseRow& row = sparsity_.rows()[k];
      c.push_back(row.weight);
      if (!rescales || row.kept != SparseRow::kSome) continue;
      c.back() *= solved.rounds[first_round_ + norm_round_].tensors[index_][k];
    }
    return c;
  }

  const int index_;
  const int64_t ranked_;  // elements that Sparsity ranks at once
  const Settings settings_;
  const Sparsity sparsity_;
  const int norm_round_;  // after those of the selection
  const int first_round_;
};

class SparseMethod : public Method {
 public:
  SparseMethod(const MethodSpec& spec, const Kind& kind) : spec_(spec), kind_(kind) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    if (Sparsity::Selects(kind_.sparsity)) {
      selection_ = SelectionRounds(tensors, Sparsity::Equal(kind_.sparsity));
    }
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    selection_.AddTo(&rounds);
    if (kind_.sparsity != SparsityKind::kNone) {
      rounds.push_back({"norms", Round::Fold::kOrdered, 0, Round::Group::kTensor});
    }
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    RETURN_IF_ERROR(CheckHasBase(tensor));
    if (tensor.models == 0) return nullptr;
    const MergekitParameters parameters(spec_, tensor);
    Settings settings;
    settings.elects = kind_.elects;
    settings.normalize = parameters.Bool("normalize");
    settings.rescale = parameters.Bool("rescale");
    settings.lambda = parameters.Number("lambda");
    ASSIGN_OR_RETURN(std::vector<SparseRow> rows, RowsOf(parameters, tensor));
    const bool dense = std::all_of(
        rows.begin(), rows.end(), [](const SparseRow& row) { return row.kept == SparseRow::kAll; });
    if (dense && !settings.elects) {
      const double divisor = settings.normalize ? TotalWeight(rows) : 1;
      std::vector<double> c;
      for (const SparseRow& row : rows) c.push_back(row.weight * settings.lambda / divisor);
      return MakeWeightedSum(std::move(c), /*add_base=*/true, "base plus weighted task vectors");
    }
    return std::make_unique<SparseProgram>(
        tensor, settings,
        Sparsity(kind_.sparsity, std::move(rows), spec_.seed, tensor, selection_, first_round()),
        selection_.count(), first_round());
  }

 private:
  absl::StatusOr<std::vector<SparseRow>> RowsOf(const MergekitParameters& parameters,
                                                const OutputTensor& tensor) const {
    std::vector<SparseRow> rows;
    const std::vector<double> weights = parameters.Weights();
    for (int k = 0; k < tensor.models; ++k) {
      SparseRow row;
      row.weight = weights[k];
      row.density = parameters.NumberOfRow(k, "density");
      if (kind_.sparsity != SparsityKind::kNone && !(row.density >= 1)) {
        row.kept = row.density > 0 ? SparseRow::kSome : SparseRow::kNone;
      }
      if (kind_.sparsity == SparsityKind::kOutliers) {
        row.gamma = parameters.NumberOfRow(k, "gamma");
      }
      if (kind_.sparsity == SparsityKind::kRankedRandom) {
        row.epsilon = parameters.NumberOfRow(k, "epsilon");
        // A negative epsilon has the ends the other way round.
        const double first = row.density - row.epsilon, last = row.density + row.epsilon;
        if (row.kept == SparseRow::kSome && (first <= 0 || first > 1 || last <= 0 || last >= 1)) {
          return TensorError(
              Reason::kOutOfRange, tensor,
              absl::StrCat("density ", row.density, " and epsilon ", row.epsilon, " of model ",
                           k + 1,
                           " do not go together: density - epsilon and density + epsilon must lie "
                           "between 0 and 1 (or density 1: keep all)"));
        }
      }
      rows.push_back(row);
    }
    return rows;
  }

  const MethodSpec spec_;
  const Kind kind_;
  SelectionRounds selection_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitSparse(const MethodSpec& spec) {
  const auto kind = std::find_if(kKinds.begin(), kKinds.end(),
                                 [&](const Kind& one) { return spec.name == one.name; });
  return std::make_unique<SparseMethod>(spec, *kind);
}

}  // namespace orthomerge
