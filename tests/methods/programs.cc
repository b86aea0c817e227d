#include "tests/methods/programs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/math/kernels.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

// One region with memory of its own, since programs may overwrite rows.
template <class T>
struct Piece {
  Piece(const MemoryTensor& tensor, const OutputTensor& output, const TensorProgram& program,
        int64_t first, int64_t count, bool reduces) {
    const auto cut = [&](const std::vector<double>& v) {
      return std::vector<T>(v.begin() + first, v.begin() + first + count);
    };
    if (output.has_base) base = cut(tensor.base);
    for (const std::vector<double>& row : tensor.rows) rows.push_back(cut(row));
    FindNonFinite(count, reduces);
    for (std::vector<T>& row : rows) pointers.push_back(row.data());
    region.f64 = sizeof(T) == sizeof(double);
    region.offset = first;
    region.elements = count;
    region.columns = program.row_elements(output);
    region.base = output.has_base ? base.data() : nullptr;
    region.rows = pointers;
  }
  // As the engine: elements with a non-finite source do not count, and are 0 in reductions.
  void FindNonFinite(int64_t count, bool reduces) {
    std::vector<uint8_t> finite(static_cast<size_t>(count), 1);
    for (size_t i = 0; i < finite.size(); ++i) {
      if (!base.empty() && !std::isfinite(base[i])) finite[i] = 0;
      for (const std::vector<T>& row : rows) finite[i] &= std::isfinite(row[i]) ? 1 : 0;
      if (finite[i] != 0) continue;
      for (std::vector<T>& row : rows) row[i] = reduces ? T{0} : row[i];
      counts.resize(finite.size());
    }
    if (!counts.empty()) counts = finite;
    region.counts = counts.empty() ? nullptr : counts.data();
  }
  std::vector<T> base;
  std::vector<std::vector<T>> rows;
  std::vector<void*> pointers;
  std::vector<uint8_t> counts;
  Region region;
};

template <class T>
std::vector<std::vector<double>> RunAs(Method* method, const MemoryModel& model,
                                       const std::vector<OutputTensor>& outputs, int64_t block,
                                       size_t sink) {
  std::vector<std::unique_ptr<TensorProgram>> programs;
  for (const OutputTensor& output : outputs) programs.push_back(method->Compile(output).value());
  const auto blocks = [&](const OutputTensor& output, int64_t granule, const auto& call) {
    const int64_t step = block == 0 ? output.elements() : (block + granule - 1) / granule * granule;
    for (int64_t first = 0; first < output.elements(); first += step) {
      call(first, std::min(step, output.elements() - first));
    }
  };
  const auto granule = [&](size_t t) {
    const Access access = programs[t]->access();
    return access == Access::kElement ? int64_t{1}
           : access == Access::kRow   ? programs[t]->row_elements(outputs[t])
                                      : outputs[t].elements();
  };
  Solved solved;
  const std::vector<Round> rounds = method->rounds();
  for (size_t r = 0; r < rounds.size(); ++r) {
    const int round = static_cast<int>(r);
    const bool exact = rounds[r].fold == Round::Fold::kExact;
    const bool alone = rounds[r].group == Round::Group::kTensor;
    Folded folded;
    folded.tensors.resize(outputs.size());
    if (exact && !alone) folded.counters.assign(static_cast<size_t>(rounds[r].width), 0);
    solved.rounds.emplace_back();
    solved.rounds.back().tensors.resize(alone ? outputs.size() : 0);
    for (size_t t = 0; t < outputs.size(); ++t) {
      if (programs[t] == nullptr || !programs[t]->takes_part(round)) continue;
      if (alone && !programs[t]->needs_round(round, solved)) continue;
      const auto width = static_cast<size_t>(alone ? programs[t]->width(round) : rounds[r].width);
      std::vector<double> lanes(exact ? 0 : width * kLanes), sums;
      std::vector<uint64_t> counters(exact && alone ? width : 0);
      Accumulator partial{absl::MakeSpan(lanes),
                          absl::MakeSpan(alone ? counters : folded.counters)};
      // Whole rows that end where the lanes begin again; or 16 elements.
      const int64_t lanes_begin = kLanes / std::gcd(granule(t), int64_t{kLanes}) * granule(t);
      const bool whole = programs[t]->access() == Access::kWhole;
      blocks(outputs[t], whole ? granule(t) : lanes_begin, [&](int64_t first, int64_t count) {
        Piece<T> piece(model[t], outputs[t], *programs[t], first, count, /*reduces=*/true);
        programs[t]->Accumulate(round, piece.region, solved, partial);
      });
      for (size_t i = 0; i < lanes.size(); i += kLanes) sums.push_back(FoldLanes(&lanes[i]));
      if (!alone) {
        folded.tensors[t] = std::move(sums);
        continue;
      }
      auto values = programs[t]->SolveTensor(round, {sums, counters}, solved);
      EXPECT_TRUE(values.ok()) << values.status();
      if (values.ok()) solved.rounds[r].tensors[t] = *std::move(values);
    }
    if (alone) continue;
    EXPECT_TRUE(method->Solve(round, folded, &solved).ok());
  }
  std::vector<std::vector<double>> results;
  for (size_t t = 0; t < outputs.size(); ++t) {
    if (programs[t] == nullptr) {
      results.push_back(outputs[t].has_base ? model[t].base : model[t].rows[0]);
      continue;
    }
    std::vector<double> result(static_cast<size_t>(outputs[t].elements()));
    blocks(outputs[t], granule(t), [&](int64_t first, int64_t count) {
      Piece<T> piece(model[t], outputs[t], *programs[t], first, count, /*reduces=*/false);
      std::vector<T> out(static_cast<size_t>(count));
      // One sink at a time, as the engine asks for them.
      std::vector<void*> sinks(programs[t]->sinks(outputs[t]).size(), nullptr);
      sinks.at(sink) = out.data();
      EXPECT_TRUE(programs[t]->Emit(piece.region, solved, sinks).ok());
      std::copy(out.begin(), out.end(), result.begin() + first);
    });
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace

MemoryModel RandomModel(int k, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  // Values that float32 holds, so that both working dtypes see the same.
  const auto draw = [&](double scale) {
    return static_cast<double>(static_cast<float>(scale * normal(random)));
  };
  MemoryModel model;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{37, 53}, {211}, {61, 3}, {}}) {
    MemoryTensor tensor;
    tensor.name = "t" + std::to_string(model.size());
    tensor.shape = shape;
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    std::vector<double> shared;
    for (int64_t i = 0; i < elements; ++i) {
      tensor.base.push_back(draw(1));
      shared.push_back(draw(0.1));
    }
    for (int j = 0; j < k; ++j) {
      std::vector<double> row;
      for (int64_t i = 0; i < elements; ++i) {
        row.push_back(static_cast<float>(shared[i] + draw(0.1 + 0.05 * j)));
      }
      tensor.rows.push_back(std::move(row));
    }
    model.push_back(std::move(tensor));
  }
  return model;
}

MethodSpec SpecOf(const std::string& method, const ParameterMap& parameters, int k) {
  MethodSpec spec;
  spec.name = method;
  for (const ParameterSchema& parameter : FindMethod(method)->parameters) {
    if (parameter.default_value.has_value()) {
      spec.parameters[parameter.name] = *parameter.default_value;
    }
  }
  for (const auto& [name, value] : parameters) spec.parameters[name] = value;
  spec.weights.assign(static_cast<size_t>(k), 1.0);
  spec.model_parameters.resize(static_cast<size_t>(k));
  for (const ParameterSchema& parameter : FindMethod(method)->parameters) {
    const auto found = spec.parameters.find(parameter.name);
    if (!parameter.per_model || found == spec.parameters.end()) continue;
    for (ParameterMap& own : spec.model_parameters) own.insert(*found);
  }
  for (int i = 0; i < k; ++i) spec.model_names.push_back("model" + std::to_string(i));
  return spec;
}

std::vector<std::vector<double>> RunMethod(const MethodSpec& spec,
                                           const std::vector<MethodSpec>& transforms,
                                           const MemoryModel& model, bool f64, int64_t block,
                                           size_t sink) {
  auto made = MakeMethod(spec, transforms);
  EXPECT_TRUE(made.ok()) << made.status();
  if (!made.ok()) return {};
  Method* method = made->get();
  std::vector<OutputTensor> outputs;
  for (const MemoryTensor& tensor : model) {
    OutputTensor output;
    output.index = static_cast<int>(outputs.size());
    output.name = tensor.name;
    output.shape = tensor.shape;
    output.f64 = f64;
    output.models = static_cast<int>(tensor.rows.size());
    output.has_base = !tensor.base.empty();
    output.parameters = tensor.parameters;
    output.model_parameters = tensor.model_parameters;
    outputs.push_back(std::move(output));
  }
  EXPECT_TRUE(method->Prepare(outputs).ok());
  return f64 ? RunAs<double>(method, model, outputs, block, sink)
             : RunAs<float>(method, model, outputs, block, sink);
}

}  // namespace orthomerge
