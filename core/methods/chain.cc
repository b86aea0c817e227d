// `transform:` chains: one method whose rounds are those of its parts in order.
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

class ChainProgram : public TensorProgram {
 public:
  ChainProgram(OutputTensor tensor, const std::vector<std::unique_ptr<Method>>* methods,
               std::vector<std::unique_ptr<TensorProgram>> programs)
      : tensor_(std::move(tensor)), methods_(methods), programs_(std::move(programs)) {}

  Access access() const override { return programs_.back()->access(); }
  int64_t row_elements(const OutputTensor& tensor) const override {
    return programs_.back()->row_elements(tensor);
  }

  bool takes_part(int round) const override {
    const size_t part = PartOf(round);
    return programs_[part]->takes_part(round - (*methods_)[part]->first_round());
  }

  bool needs_round(int round, const Solved& solved) const override {
    const size_t part = PartOf(round);
    return programs_[part]->needs_round(round - (*methods_)[part]->first_round(), solved);
  }

  int64_t width(int round) const override {
    const size_t part = PartOf(round);
    return programs_[part]->width(round - (*methods_)[part]->first_round());
  }

  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    const size_t part = PartOf(round);
    return programs_[part]->SolveTensor(round - (*methods_)[part]->first_round(), partial, solved);
  }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    const size_t part = PartOf(round);
    MapBefore(part, region, solved);
    programs_[part]->Accumulate(round - (*methods_)[part]->first_round(), region, solved, partial);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    MapBefore(methods_->size() - 1, region, solved);
    return programs_.back()->Emit(region, solved, sinks);
  }

  std::vector<SinkSpec> sinks(const OutputTensor& tensor) const override {
    return programs_.back()->sinks(tensor);
  }
  int64_t working_bytes(int64_t elements) const override {
    return programs_.back()->working_bytes(elements);
  }
  std::string description() const override { return programs_.back()->description(); }

 private:
  size_t PartOf(int round) const {
    size_t part = methods_->size() - 1;
    while (part > 0 && (*methods_)[part]->first_round() > round) --part;
    return part;
  }

  void MapBefore(size_t part, const Region& region, const Solved& solved) const {
    for (size_t i = 0; i < part; ++i) (*methods_)[i]->Map(tensor_, region, solved);
  }

  const OutputTensor tensor_;
  const std::vector<std::unique_ptr<Method>>* methods_;  // owned by the Chain
  const std::vector<std::unique_ptr<TensorProgram>> programs_;
};

class Chain : public Method {
 public:
  explicit Chain(std::vector<std::unique_ptr<Method>> methods) : methods_(std::move(methods)) {}

  bool wants_task_vectors() const override { return true; }
  bool uses_dense_algebra() const override { return methods_.back()->uses_dense_algebra(); }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    int first_round = 0;
    for (const auto& method : methods_) {
      method->set_first_round(first_round);
      RETURN_IF_ERROR(method->Prepare(tensors));
      first_round += static_cast<int>(method->rounds().size());
    }
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    for (const auto& method : methods_) {
      for (Round& round : method->rounds()) rounds.push_back(std::move(round));
    }
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    std::vector<std::unique_ptr<TensorProgram>> programs;
    for (const auto& method : methods_) {
      ASSIGN_OR_RETURN(std::unique_ptr<TensorProgram> program, method->Compile(tensor));
      programs.push_back(std::move(program));
    }
    if (programs.back() == nullptr) return nullptr;
    return std::make_unique<ChainProgram>(tensor, &methods_, std::move(programs));
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    size_t part = methods_.size() - 1;
    while (part > 0 && methods_[part]->first_round() > round) --part;
    return methods_[part]->Solve(round - methods_[part]->first_round(), folded, solved);
  }

  std::vector<ScalarSpec> scalars() const override { return methods_.back()->scalars(); }
  std::vector<double> ScalarValues(const Solved& solved) const override {
    return methods_.back()->ScalarValues(solved);
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    for (const auto& method : methods_) method->Report(solved, report);
  }

  // A method that stands in the chain twice has its second series under NAME.2.
  void Metrics(const Solved& solved, std::vector<MetricSeries>* metrics) const override {
    std::map<std::string, int> seen;
    for (const auto& method : methods_) {
      std::vector<MetricSeries> own;
      method->Metrics(solved, &own);
      for (MetricSeries& series : own) {
        const int count = ++seen[series.name];
        if (count > 1) absl::StrAppend(&series.name, ".", count);
        metrics->push_back(std::move(series));
      }
    }
  }

 private:
  const std::vector<std::unique_ptr<Method>> methods_;  // transforms, then the method
};

}  // namespace

std::unique_ptr<Method> MakeChain(std::vector<std::unique_ptr<Method>> transforms,
                                  std::unique_ptr<Method> method) {
  transforms.push_back(std::move(method));
  return std::make_unique<Chain>(std::move(transforms));
}

}  // namespace orthomerge
