// DOGE (arXiv 2501.01230, its form without data): every matrix gets a modification delta of its
// task vectors that brings the merged model nearer to each of them, outside the subspace they
// share. With lambda_i = eta / ||tau_i||_F, M = sum_i lambda_i tau_i and S = sum_i lambda_i, Adam
// minimises
//   L(delta) = sum_j sum_p <tau_j[p], tau_j[p] - M[p] - S delta[p]>^2   over rows p,
// its gradients projected by I - Q Q^T: Q has the leading floor(r / subspace_div) left singular
// vectors of [U_1 ... U_K], U_i the leading floor(r / K) ones of tau_i, r = min(m, n). Then
//   theta = theta_0 + sum_i lambda_i mask_i (tau_i + delta),
// where mask_i keeps the entries of tau_i above the threshold of TIES over all matrices that take
// part. Those are the matrices whose name contains every text of `include` and neither layer_norm
// nor a text of `exclude`; every other tensor stays at the base. A zero task vector is left out.
#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/math/linalg.h"
#include "core/methods/election.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/matrices.h"

namespace orthomerge {
namespace {

struct DogeSettings {
  double eta = 0;
  int64_t divisor = 0;
  Descent descent;
};

template <class T>
double Norm(const T* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  return std::sqrt(squares);
}

class DogeProgram : public TensorProgram {
 public:
  DogeProgram(const DenseAlgebra* algebra, const DogeSettings& settings, const TrimAndElect& trim,
              const OutputTensor& tensor)
      : algebra_(algebra),
        settings_(settings),
        trim_(trim),
        working_bytes_(DogeWorkingBytes(tensor.shape[0], tensor.shape[1])) {}

  Access access() const override { return Access::kWhole; }
  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    trim_.Accumulate(round, region, solved, partial);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.counts != nullptr) {  // as other tensors, but what is not finite stays visible
      WeightedSum(region, std::vector<double>(region.rows.size(), 0.0), true, sinks[0]);
      return absl::OkStatus();
    }
    return region.f64 ? EmitAs<double>(region, solved, static_cast<double*>(sinks[0]))
                      : EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
  }

  int64_t working_bytes(int64_t elements) const override { return 8 * elements + working_bytes_; }
  std::string description() const override { return "task vectors modified, trimmed, added"; }

 private:
  template <class T>
  absl::Status EmitAs(const Region& region, const Solved& solved, T* out) const {
    const TaskMatrices tasks = TasksOf(region);
    DogeProblem problem;
    problem.task_rank = tasks.rank() / tasks.count();
    problem.shared_rank = tasks.rank() / settings_.divisor;
    problem.descent = settings_.descent;
    for (size_t k = 0; k < region.rows.size(); ++k) {
      const double norm = Norm(region.row_as<T>(k), region.elements);
      problem.factors.push_back(norm > 0 ? settings_.eta / norm : 0);
    }
    std::vector<double> delta(static_cast<size_t>(region.elements));
    RETURN_IF_ERROR(algebra_->Doge(tasks, problem, delta.data()));
    std::vector<double> thresholds;
    for (size_t k = 0; k < region.rows.size(); ++k) {
      thresholds.push_back(trim_.Threshold(solved, k));
    }
    const T* base = region.base_as<T>();
    for (int64_t i = 0; i < region.elements; ++i) {
      double merged = 0;
      for (size_t k = 0; k < region.rows.size(); ++k) {
        const double entry = region.row_as<T>(k)[i];
        if (std::abs(entry) < thresholds[k]) continue;
        merged += problem.factors[k] * (entry + delta[i]);
      }
      out[i] = base[i] + static_cast<T>(merged);
    }
    return absl::OkStatus();
  }

  const DenseAlgebra* algebra_;
  const DogeSettings settings_;
  const TrimAndElect trim_;
  const int64_t working_bytes_;
};

class Doge : public Method {
 public:
  explicit Doge(const MethodSpec& spec)
      : parameters_(spec.parameters),
        models_(spec.weights.size()),
        include_(std::get<std::vector<std::string>>(spec.parameters.at("include"))),
        device_(spec.device) {
    settings_.eta = NumberOf(parameters_, "eta");
    settings_.divisor = IntegerOf(parameters_, "subspace_div");
    settings_.descent.rate = NumberOf(parameters_, "lr");
    settings_.descent.steps = IntegerOf(parameters_, "iters");
  }

  bool wants_task_vectors() const override { return true; }
  bool uses_dense_algebra() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    if (std::none_of(tensors.begin(), tensors.end(),
                     [this](const OutputTensor& tensor) { return TakesPart(tensor); })) {
      return MakeError(Reason::kOutOfRange,
                       absl::StrCat("doge has nothing to merge: no matrix's name contains ",
                                    absl::StrJoin(include_, " and "),
                                    "; set `include` to texts that the names of the matrices to "
                                    "merge contain"));
    }
    trim_ = TrimAndElect(models_, NumberOf(parameters_, "density"), first_round(), AnyF64(tensors));
    ASSIGN_OR_RETURN(algebra_, LoadDenseAlgebra(device_));
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    trim_.AddRounds(&rounds);
    rounds.pop_back();  // no election
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (!TakesPart(tensor)) return nullptr;
    return std::make_unique<DogeProgram>(algebra_, settings_, trim_, tensor);
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    trim_.Solve(round, folded, solved);
    return absl::OkStatus();
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    auto thresholds = nlohmann::ordered_json::array();
    for (size_t k = 0; k < models_; ++k) thresholds.push_back(trim_.Threshold(solved, k));
    report->values["thresholds"] = std::move(thresholds);
  }

 private:
  bool TakesPart(const OutputTensor& tensor) const {
    return tensor.is_matrix() && !absl::StrContains(tensor.name, "layer_norm") &&
           !IsExcluded(parameters_, tensor.name) &&
           std::all_of(include_.begin(), include_.end(), [&tensor](const std::string& text) {
             return absl::StrContains(tensor.name, text);
           });
  }

  const ParameterMap parameters_;
  const size_t models_;
  const std::vector<std::string> include_;
  DogeSettings settings_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
  TrimAndElect trim_;
};

}  // namespace

std::unique_ptr<Method> MakeDoge(const MethodSpec& spec) { return std::make_unique<Doge>(spec); }

}  // namespace orthomerge
