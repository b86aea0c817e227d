#include "core/methods/sweep.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr size_t kAlignment = 64;  // of rows, for any SIMD load

// A round of the sweep, which stands for one of each variant's own.
struct SweepRound {
  Round round;
  std::vector<int> own;              // per variant; -1: none
  std::vector<int64_t> model_width;  // per variant, of its partial for the model

  bool is_model() const { return round.group == Round::Group::kModel; }
};

// What the rounds gave that the variant counts on.
const Solved& SolvedOf(const std::vector<SweepVariant>& variants, size_t v, const Solved& solved) {
  const int other = variants[v].rounds_of;
  return solved.variants[other < 0 ? v : static_cast<size_t>(other)];
}

// Of one tensor, per variant; null where it keeps the tensor.
using Programs = std::vector<std::unique_ptr<TensorProgram>>;

// Gives program after program the same region, whose rows each may change.
class RegionCopy {
 public:
  explicit RegionCopy(const Region& region)
      : original_(region),
        region_(region),
        bytes_(static_cast<size_t>(region.elements) * (region.f64 ? 8 : 4)) {
    const size_t stride = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    const size_t all = std::max(stride * region.rows.size(), kAlignment);
    memory_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, all)));
    if (memory_ == nullptr) throw std::bad_alloc();
    for (size_t k = 0; k < region.rows.size(); ++k) rows_.push_back(memory_.get() + k * stride);
    region_.rows = rows_;
  }

  const Region& Fresh() {
    for (size_t k = 0; k < rows_.size(); ++k) std::memcpy(rows_[k], original_.rows[k], bytes_);
    return region_;
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  const Region& original_;
  Region region_;
  const size_t bytes_;  // of a row
  std::unique_ptr<char, Free> memory_;
  std::vector<void*> rows_;
};

class SweepProgram : public TensorProgram {
 public:
  SweepProgram(const OutputTensor& tensor, const std::vector<SweepVariant>& variants,
               const std::vector<SweepRound>& rounds, std::shared_ptr<const Programs> programs)
      : variants_(variants),
        rounds_(rounds),
        programs_(std::move(programs)),
        tensor_width_(tensor.f64 ? 8 : 4),
        models_(tensor.models) {
    for (size_t v = 0; v < variants_.size(); ++v) {
      first_sinks_.push_back(sinks_.size());
      const TensorProgram* program = (*programs_)[v].get();
      const std::vector<SinkSpec> own =
          program == nullptr ? std::vector<SinkSpec>{{"", tensor.dtype}} : program->sinks(tensor);
      for (SinkSpec sink : own) {
        const std::string& folder = variants_[v].artifact;
        sink.artifact = sink.artifact.empty() ? folder : absl::StrCat(folder, "/", sink.artifact);
        sinks_.push_back(std::move(sink));
      }
    }
    first_sinks_.push_back(sinks_.size());
  }

  Access access() const override { return AnyProgram().access(); }
  int64_t row_elements(const OutputTensor& tensor) const override {
    return AnyProgram().row_elements(tensor);
  }

  bool takes_part(int round) const override {
    for (size_t v = 0; v < variants_.size(); ++v) {
      if (TakesPart(v, round)) return true;
    }
    return false;
  }

  bool needs_round(int round, const Solved& solved) const override {
    for (size_t v = 0; v < variants_.size(); ++v) {
      if (NeedsRound(v, round, solved)) return true;
    }
    return false;
  }

  int64_t width(int round) const override {
    int64_t width = 0;
    for (size_t v = 0; v < variants_.size(); ++v) width += Width(v, round);
    return width;
  }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    RegionCopy copy(region);
    size_t at = 0;
    for (size_t v = 0; v < variants_.size(); ++v) {
      const auto width = static_cast<size_t>(Width(v, round));
      if (NeedsRound(v, round, solved)) {
        Accumulator own;
        if (!partial.lanes.empty()) own.lanes = partial.lanes.subspan(at * kLanes, width * kLanes);
        if (!partial.counters.empty()) own.counters = partial.counters.subspan(at, width);
        (*programs_)[v]->Accumulate(rounds_[round].own[v], copy.Fresh(), solved.variants[v], own);
      }
      at += width;
    }
  }

  // Every variant's values, each with their number before them.
  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    std::vector<double> all;
    size_t at = 0;
    for (size_t v = 0; v < variants_.size(); ++v) {
      const auto width = static_cast<size_t>(Width(v, round));
      std::vector<double> values;
      if (NeedsRound(v, round, solved)) {
        TensorPartial own;
        if (!partial.sums.empty()) own.sums = partial.sums.subspan(at, width);
        if (!partial.counters.empty()) own.counters = partial.counters.subspan(at, width);
        ASSIGN_OR_RETURN(
            values, (*programs_)[v]->SolveTensor(rounds_[round].own[v], own, solved.variants[v]));
      }
      all.push_back(static_cast<double>(values.size()));
      all.insert(all.end(), values.begin(), values.end());
      at += width;
    }
    return all;
  }

  void KeepSolved(int round, int tensor, std::vector<double> values,
                  Solved* solved) const override {
    auto next = values.begin();
    for (size_t v = 0; v < variants_.size(); ++v) {
      const auto count = static_cast<std::ptrdiff_t>(*next++);
      if (count > 0) {
        (*programs_)[v]->KeepSolved(rounds_[round].own[v], tensor, {next, next + count},
                                    &solved->variants[v]);
      }
      next += count;
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    RegionCopy copy(region);
    for (size_t v = 0; v < variants_.size(); ++v) {
      const size_t first = first_sinks_[v];
      const absl::Span<void* const> own = sinks.subspan(first, first_sinks_[v + 1] - first);
      if (std::all_of(own.begin(), own.end(), [](void* sink) { return sink == nullptr; })) continue;
      if ((*programs_)[v] == nullptr) {
        const void* kept = region.base != nullptr ? region.base : region.rows[0];
        std::memcpy(own[0], kept, static_cast<size_t>(region.elements) * tensor_width_);
        continue;
      }
      RETURN_IF_ERROR((*programs_)[v]->Emit(copy.Fresh(), SolvedOf(variants_, v, solved), own));
    }
    return absl::OkStatus();
  }

  std::vector<SinkSpec> sinks(const OutputTensor&) const override { return sinks_; }

  int64_t working_bytes(int64_t elements) const override {
    int64_t most = 0;
    for (const auto& program : *programs_) {
      if (program != nullptr) most = std::max(most, program->working_bytes(elements));
    }
    return most + models_ * (elements * static_cast<int64_t>(tensor_width_) + 64);
  }

  std::string description() const override {
    return absl::StrCat(AnyProgram().description(), ", ", variants_.size(), " variants");
  }

 private:
  const TensorProgram& AnyProgram() const {
    return **std::find_if(programs_->begin(), programs_->end(),
                          [](const auto& program) { return program != nullptr; });
  }

  bool TakesPart(size_t v, int round) const {
    const int own = rounds_[round].own[v];
    return own >= 0 && (*programs_)[v] != nullptr && (*programs_)[v]->takes_part(own);
  }

  bool NeedsRound(size_t v, int round, const Solved& solved) const {
    if (!TakesPart(v, round)) return false;
    return rounds_[round].is_model() ||
           (*programs_)[v]->needs_round(rounds_[round].own[v], solved.variants[v]);
  }

  // Numbers that the variant has in a partial.
  int64_t Width(size_t v, int round) const {
    const SweepRound& of = rounds_[round];
    if (of.is_model()) return of.model_width[v];
    return TakesPart(v, round) ? (*programs_)[v]->width(of.own[v]) : 0;
  }

  const std::vector<SweepVariant>& variants_;  // owned by the Sweep, as are the rounds
  const std::vector<SweepRound>& rounds_;
  const std::shared_ptr<const Programs> programs_;
  const size_t tensor_width_;
  const int64_t models_;
  std::vector<SinkSpec> sinks_;      // of all variants
  std::vector<size_t> first_sinks_;  // per variant, and the end
};

class Sweep : public Method {
 public:
  explicit Sweep(std::vector<SweepVariant> variants) : variants_(std::move(variants)) {}

  bool wants_task_vectors() const override { return variants_[0].method->wants_task_vectors(); }
  bool needs_base_values() const override {
    return keeps_any_ || Any([](const Method& method) { return method.needs_base_values(); });
  }
  bool uses_dense_algebra() const override {
    return Any([](const Method& method) { return method.uses_dense_algebra(); });
  }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    for (const SweepVariant& variant : variants_) {
      RETURN_IF_ERROR(Annotate(variant.method->Prepare(tensors), variant.name));
    }
    MatchRounds();
    for (const OutputTensor& tensor : tensors) {
      auto programs = std::make_shared<Programs>();
      for (const SweepVariant& variant : variants_) {
        ASSIGN_OR_RETURN(auto program, variant.method->Compile(tensor));
        programs->push_back(std::move(program));
      }
      RETURN_IF_ERROR(CheckAlike(tensor, *programs));
      if (programs_.size() <= static_cast<size_t>(tensor.index)) {
        programs_.resize(static_cast<size_t>(tensor.index) + 1);
      }
      programs_[tensor.index] = std::move(programs);
    }
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    for (const SweepRound& round : rounds_) rounds.push_back(round.round);
    return rounds;
  }

  Solved MakeSolved(size_t tensors) const override {
    Solved solved = Method::MakeSolved(tensors);
    for (const SweepVariant& variant : variants_) {
      solved.variants.push_back(variant.method->MakeSolved(tensors));
    }
    return solved;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    const auto& programs = programs_[tensor.index];
    if (std::all_of(programs->begin(), programs->end(),
                    [](const auto& program) { return program == nullptr; })) {
      return nullptr;
    }
    return std::make_unique<SweepProgram>(tensor, variants_, rounds_, programs);
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    size_t at = 0;
    for (size_t v = 0; v < variants_.size(); ++v) {
      const int own_round = rounds_[round].own[v];
      const auto width = static_cast<size_t>(rounds_[round].model_width[v]);
      if (own_round >= 0) {
        const Folded own = PartOf(folded, v, own_round, at, width);
        RETURN_IF_ERROR(Annotate(variants_[v].method->Solve(own_round, own, &solved->variants[v]),
                                 variants_[v].name));
      }
      at += width;
    }
    return absl::OkStatus();
  }

  std::vector<ScalarSpec> scalars() const override {
    std::vector<ScalarSpec> all;
    for (const SweepVariant& variant : variants_) {
      for (ScalarSpec& scalar : variant.method->scalars()) {
        all.push_back({absl::StrCat(variant.artifact, "/", scalar.artifact), scalar.name});
      }
    }
    return all;
  }

  std::vector<double> ScalarValues(const Solved& solved) const override {
    std::vector<double> all;
    for (size_t v = 0; v < variants_.size(); ++v) {
      for (const double value : variants_[v].method->ScalarValues(SolvedOf(variants_, v, solved))) {
        all.push_back(value);
      }
    }
    return all;
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    for (size_t v = 0; v < variants_.size(); ++v) {
      MethodReport own;
      variants_[v].method->Report(SolvedOf(variants_, v, solved), &own);
      report->values["variants"][variants_[v].name] = std::move(own.values);
      for (const std::string& warning : own.warnings) {
        report->warnings.push_back(absl::StrCat(variants_[v].name, ": ", warning));
      }
    }
  }

  void Metrics(const Solved& solved, std::vector<MetricSeries>* metrics) const override {
    for (size_t v = 0; v < variants_.size(); ++v) {
      std::vector<MetricSeries> own;
      variants_[v].method->Metrics(SolvedOf(variants_, v, solved), &own);
      for (MetricSeries& series : own) {
        series.name = absl::StrCat(variants_[v].name, "/", series.name);
        metrics->push_back(std::move(series));
      }
    }
  }

 private:
  template <class Predicate>
  bool Any(const Predicate& predicate) const {
    return std::any_of(variants_.begin(), variants_.end(),
                       [&](const SweepVariant& variant) { return predicate(*variant.method); });
  }

  // Variants meet in a round where what they have next is folded alike; rounds of the model, which
  // all must pass together, come first.
  void MatchRounds() {
    std::vector<std::vector<Round>> own;
    for (const SweepVariant& variant : variants_) {
      own.push_back(variant.rounds_of < 0 ? variant.method->rounds() : std::vector<Round>());
    }
    std::vector<size_t> next(own.size(), 0);
    const auto has_next = [&](size_t v) { return next[v] < own[v].size(); };
    while (true) {
      size_t leader = own.size();
      for (size_t v = 0; v < own.size(); ++v) {
        if (!has_next(v)) continue;
        const bool is_model = own[v][next[v]].group == Round::Group::kModel;
        if (leader == own.size() ||
            (is_model && own[leader][next[leader]].group != Round::Group::kModel)) {
          leader = v;
        }
      }
      if (leader == own.size()) return;
      SweepRound round;
      round.round = own[leader][next[leader]];
      round.round.width = 0;
      for (size_t v = 0; v < own.size(); ++v) {
        const bool meets = has_next(v) && own[v][next[v]].group == round.round.group &&
                           own[v][next[v]].fold == round.round.fold;
        round.own.push_back(meets ? static_cast<int>(next[v]) : -1);
        round.model_width.push_back(meets && round.is_model() ? own[v][next[v]].width : 0);
        round.round.width += round.model_width.back();
        if (meets) ++next[v];
      }
      rounds_.push_back(std::move(round));
    }
  }

  absl::Status CheckAlike(const OutputTensor& tensor, const Programs& programs) {
    const TensorProgram* first = nullptr;
    size_t changed = 0;
    for (const auto& program : programs) {
      if (program == nullptr) continue;
      ++changed;
      if (first == nullptr) first = program.get();
      if (program->access() == first->access() &&
          program->row_elements(tensor) == first->row_elements(tensor)) {
        continue;
      }
      return MakeError(Reason::kUnsupported,
                       absl::StrCat("the variants of the sweep cut tensor ", tensor.name,
                                    " in different ways (by element, row or as a whole); give "
                                    "each kind a recipe of its own"));
    }
    keeps_any_ = keeps_any_ || (changed > 0 && changed < programs.size());
    return absl::OkStatus();
  }

  // What the variant's own round had folded.
  Folded PartOf(const Folded& folded, size_t v, int own_round, size_t at, size_t width) const {
    Folded own;
    own.tensors.resize(folded.tensors.size());
    for (size_t t = 0; t < folded.tensors.size(); ++t) {
      const std::vector<double>& all = folded.tensors[t];
      if (all.empty()) continue;
      const TensorProgram* program = (*programs_[t])[v].get();
      if (program == nullptr || !program->takes_part(own_round)) continue;
      own.tensors[t].assign(all.begin() + static_cast<std::ptrdiff_t>(at),
                            all.begin() + static_cast<std::ptrdiff_t>(at + width));
    }
    if (!folded.counters.empty()) {
      own.counters.assign(folded.counters.begin() + static_cast<std::ptrdiff_t>(at),
                          folded.counters.begin() + static_cast<std::ptrdiff_t>(at + width));
    }
    return own;
  }

  const std::vector<SweepVariant> variants_;
  std::vector<SweepRound> rounds_;
  std::vector<std::shared_ptr<const Programs>> programs_;  // per tensor, by OutputTensor::index
  bool keeps_any_ = false;  // some variant keeps a tensor that another one changes
};

}  // namespace

std::unique_ptr<Method> MakeSweep(std::vector<SweepVariant> variants) {
  return std::make_unique<Sweep>(std::move(variants));
}

}  // namespace orthomerge
