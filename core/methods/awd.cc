// Adaptive Weight Disentanglement (arXiv 2411.18729): subtracts from every task vector the part
// `delta` that they share, then adds them: theta = theta_0 + lambda * sum_i (tau_i - delta)
// = theta_0 + lambda * sum_k (1 - K c_k) tau_k, with delta = sum_k c_k tau_k.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "core/math/kernels.h"
#include "core/methods/awd_metrics.h"
#include "core/methods/awd_solver.h"
#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

enum class Granularity { kModel, kTensor, kRow };
enum class Scale { kRaw, kUnit, kRelative };

struct Settings {
  AwdParameters parameters;
  double lambda = 0;
  Granularity granularity = Granularity::kModel;
  Scale scale = Scale::kRaw;

  // The problem of one unit (model, tensor or row) with Gram matrix `gram`; `model_norm` is the
  // mean norm of the whole task vectors.
  AwdParameters For(double model_norm) const {
    AwdParameters scaled = parameters;
    if (scale == Scale::kUnit) {
      scaled.alpha *= model_norm;
      scaled.beta /= model_norm * model_norm;
    }
    return scaled;
  }

  std::vector<double> Normalised(std::vector<double> gram, int k) const {
    const double norm = Mean(Norms(gram, k));
    if (scale != Scale::kRaw && norm > 0) {
      for (double& x : gram) x /= norm * norm;
    }
    return gram;
  }

  AwdSolution SolveUnit(const std::vector<double>& gram, int k, double model_norm,
                        bool keep_trace = false) const {
    if (!(model_norm > 0)) return SolveAwd(gram, k, {parameters.alpha, parameters.beta, 0});
    return SolveAwd(Normalised(gram, k), k, For(model_norm), keep_trace);
  }
};

// lambda * (1 - K c_k).
std::vector<double> Factors(const std::vector<double>& c, double lambda) {
  std::vector<double> factors = MergeCoefficients(c);
  for (double& factor : factors) factor *= lambda;
  return factors;
}

// Whole model or tensor: coefficients solved beforehand.
class AwdProgram : public TensorProgram {
 public:
  AwdProgram(int index, Granularity granularity, double lambda, int round)
      : index_(index), granularity_(granularity), lambda_(lambda), round_(round) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int, const Region& region, const Solved&, Accumulator& partial) const override {
    AddGram(region.rows, region.f64, region.elements, partial.lanes);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    const Solved::Values& values = solved.rounds[round_];
    const std::vector<double>& c =
        granularity_ == Granularity::kModel ? values.model : values.tensors[index_];
    WeightedSum(region, Factors(c, lambda_), /*add_base=*/true, sinks[0]);
    return absl::OkStatus();
  }

  std::string description() const override {
    return granularity_ == Granularity::kModel ? "disentangled with the model" : "disentangled";
  }

 private:
  const int index_;
  const Granularity granularity_;
  const double lambda_;
  const int round_;
};

// Rows of a matrix, each solved where it is emitted; values.model[0] is the mean norm of the whole
// task vectors.
class AwdRowProgram : public TensorProgram {
 public:
  AwdRowProgram(const Settings& settings, int round) : settings_(settings), round_(round) {}

  Access access() const override { return Access::kRow; }
  bool takes_part(int) const override { return true; }

  void Accumulate(int, const Region& region, const Solved&, Accumulator& partial) const override {
    AddGram(region.rows, region.f64, region.elements, partial.lanes);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    const double model_norm = solved.rounds[round_].model[0];
    const size_t width = region.f64 ? sizeof(double) : sizeof(float);
    for (int64_t row = 0; row < region.elements; row += region.columns) {
      const RegionSlice slice(region, row, region.columns);
      const std::vector<double> gram = GramOf(slice.region());
      const auto k = static_cast<int>(region.rows.size());
      WeightedSum(
          slice.region(), Factors(settings_.SolveUnit(gram, k, model_norm).c, settings_.lambda),
          /*add_base=*/true, static_cast<char*>(sinks[0]) + static_cast<size_t>(row) * width);
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "disentangled row by row"; }

 private:
  const Settings settings_;
  const int round_;
};

class Awd : public Method {
 public:
  explicit Awd(const MethodSpec& spec)
      : parameters_(spec.parameters), k_(static_cast<int>(spec.weights.size())) {
    settings_.parameters = {NumberOf(parameters_, "alpha"), NumberOf(parameters_, "beta"),
                            IntegerOf(parameters_, "iters")};
    settings_.lambda = NumberOf(parameters_, "lambda");
    const std::string granularity = TextOf(parameters_, "granularity");
    settings_.granularity = granularity == "row"      ? Granularity::kRow
                            : granularity == "tensor" ? Granularity::kTensor
                                                      : Granularity::kModel;
    const bool whole = settings_.granularity == Granularity::kModel;
    const std::string scale = parameters_.contains("scale") ? TextOf(parameters_, "scale")
                              : whole                       ? "raw"
                                                            : "unit";
    // For the whole model `unit` is `raw` by definition.
    settings_.scale = scale == "relative"         ? Scale::kRelative
                      : scale == "unit" && !whole ? Scale::kUnit
                                                  : Scale::kRaw;
  }

  bool wants_task_vectors() const override { return true; }

  std::vector<Round> rounds() const override {
    return {{"Gram matrix", Round::Fold::kOrdered, static_cast<int64_t>(PairsOf(k_))}};
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) {
      return MakeWeightedSum(std::vector<double>(k_, settings_.lambda), /*add_base=*/true,
                             "base plus task vectors (excluded)");
    }
    if (settings_.granularity == Granularity::kRow && tensor.is_matrix()) {
      return std::make_unique<AwdRowProgram>(settings_, first_round());
    }
    return std::make_unique<AwdProgram>(tensor.index, settings_.granularity, settings_.lambda,
                                        first_round());
  }

  // model: coefficients c (granularity model) or the mean norm of the task vectors; tensors: c;
  // evidence: the Gram matrix.
  absl::Status Solve(int, const Folded& folded, Solved* solved) const override {
    Solved::Values& values = solved->rounds[first_round()];
    const std::vector<double> gram = ModelGram(folded);
    if (!std::all_of(gram.begin(), gram.end(), [](double x) { return std::isfinite(x); })) {
      return MakeError(Reason::kInputCorrupt,
                       "the task vectors are so large that their inner products overflow, though "
                       "every weight is finite; inspect the models, or exclude the tensors");
    }
    const double model_norm = Mean(Norms(gram, k_));
    AwdMetrics metrics(k_, settings_.For(model_norm));
    const auto solve = [&](const std::vector<double>& unit) {
      AwdSolution solution = settings_.SolveUnit(unit, k_, model_norm, /*keep_trace=*/true);
      metrics.Add(unit, solution);
      return std::move(solution.c);
    };
    if (settings_.granularity == Granularity::kModel) {
      values.model = solve(gram);
    } else {
      values.model = {model_norm};
      values.tensors.resize(folded.tensors.size());
      for (size_t t = 0; t < folded.tensors.size(); ++t) {
        if (folded.tensors[t].empty()) continue;
        const std::vector<double> unit = FullGram(folded.tensors[t], k_);
        // Rows are solved one by one where they are written, only other shapes here.
        values.tensors[t] = settings_.granularity == Granularity::kTensor
                                ? solve(unit)
                                : settings_.SolveUnit(unit, k_, model_norm).c;
      }
      if (settings_.granularity == Granularity::kRow) metrics.AddUnsolved(gram);
    }
    values.evidence = gram;
    values.metrics = metrics.Series();
    return absl::OkStatus();
  }

  absl::Status CheckTransform() const override {
    if (settings_.granularity != Granularity::kRow) return absl::OkStatus();
    return MakeError(Reason::kUnsupported,
                     "transform: awd takes granularity model or tensor, not row");
  }

  void Map(const OutputTensor& tensor, const Region& region, const Solved& solved) const override {
    if (IsExcluded(parameters_, tensor.name)) return;
    const Solved::Values& values = solved.rounds[first_round()];
    const bool whole = settings_.granularity == Granularity::kModel;
    const std::vector<double>& c = whole ? values.model : values.tensors[tensor.index];
    if (region.f64) {
      SubtractDelta<double>(region, c);
    } else {
      SubtractDelta<float>(region, c);
    }
  }

  void Report(const Solved& solved, MethodReport* report) const override;

  void Metrics(const Solved& solved, std::vector<MetricSeries>* metrics) const override {
    const std::vector<MetricSeries>& own = solved.rounds[first_round()].metrics;
    metrics->insert(metrics->end(), own.begin(), own.end());
  }

 private:
  std::vector<double> ModelGram(const Folded& folded) const {
    std::vector<double> pairs(PairsOf(k_), 0.0);
    for (const std::vector<double>& tensor : folded.tensors) {
      for (size_t p = 0; p < tensor.size(); ++p) pairs[p] += tensor[p];
    }
    return FullGram(pairs, k_);
  }

  template <class T>
  void SubtractDelta(const Region& region, const std::vector<double>& c) const {
    for (int64_t i = 0; i < region.elements; ++i) {
      T delta = static_cast<T>(c[0]) * region.row_as<T>(0)[i];
      for (int k = 1; k < k_; ++k) delta = delta + static_cast<T>(c[k]) * region.row_as<T>(k)[i];
      for (int k = 0; k < k_; ++k) region.row_as<T>(k)[i] -= delta;
    }
  }

  const ParameterMap parameters_;
  const int k_;
  Settings settings_;
};

nlohmann::ordered_json Cosines(const std::vector<double>& gram, int k) {
  const std::vector<double> norms = Norms(gram, k);
  auto matrix = nlohmann::ordered_json::array();
  for (int i = 0; i < k; ++i) {
    auto row = nlohmann::ordered_json::array();
    for (int j = 0; j < k; ++j) {
      const double product = norms[i] * norms[j];
      row.push_back(product > 0 ? gram[i * k + j] / product : 0.0);
    }
    matrix.push_back(std::move(row));
  }
  return matrix;
}

void Awd::Report(const Solved& solved, MethodReport* report) const {
  const std::vector<double>& gram = solved.rounds[first_round()].evidence;
  const bool whole = settings_.granularity == Granularity::kModel;
  report->values["norms"] = Norms(gram, k_);
  report->values["cosines_before"] = Cosines(gram, k_);
  const double model_norm = Mean(Norms(gram, k_));
  // Diagnosed on the whole model; for tensors and rows this is the problem they are scaled to.
  const AwdSolution solution = settings_.SolveUnit(gram, k_, model_norm);
  const AwdParameters scaled = settings_.For(model_norm);
  report->values["mean_abs_cosine_before"] = solution.first.orthogonality;
  if (whole) {
    const std::vector<double> coefficients = MergeCoefficients(solution.c);
    report->values["cosines_after"] = Cosines(DisentangledGram(gram, solution.c), k_);
    report->values["mean_abs_cosine_after"] = solution.last.orthogonality;
    report->values["merge_coefficients"] = coefficients;
    report->values["mean_merge_coefficient"] = Mean(coefficients);
  }
  if (scaled.alpha > 0) report->values["g0_over_alpha"] = solution.gradient_norm / scaled.alpha;
  switch (CheckAwd(solution, settings_.Normalised(gram, k_), k_, scaled)) {
    case AwdHealth::kFine:
      break;
    case AwdHealth::kNoOp:
      report->warnings.push_back(absl::StrFormat(
          "AWD does nothing here: the gradient at 0 is %.3g of alpha, so the redundant vector "
          "stays at 0 and the result is that without it (mean task-vector norm %.3g); "
          "scale: relative makes alpha independent of the norms",
          solution.gradient_norm / scaled.alpha, model_norm));
      break;
    case AwdHealth::kUnstable:
      report->warnings.push_back(absl::StrFormat(
          "AWD is unstable here: with a mean task-vector norm of %.3g one step of beta %.3g "
          "overshoots (mean |cosine| %.4f before, %.4f after); use a smaller beta or "
          "scale: relative",
          model_norm, settings_.parameters.beta, solution.first.orthogonality,
          solution.last.orthogonality));
      break;
  }
  if (!whole && settings_.scale == Scale::kRaw) {
    report->warnings.push_back(
        "scale: raw per tensor or row diverges where task vectors are short; scale: unit (the "
        "default there) or relative does not");
  }
}

}  // namespace

std::unique_ptr<Method> MakeAwd(const MethodSpec& spec) { return std::make_unique<Awd>(spec); }

}  // namespace orthomerge
