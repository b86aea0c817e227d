// What a merging method is to the engine: it compiles every output tensor into a tensor program.
// Methods do no input or output and see no files, threads or devices. A new method is one file with
// its formula, its schema (schemas_*.cc) and its row in registry.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/metric_series.h"
#include "core/base/status.h"
#include "core/math/dtype.h"
#include "core/methods/schema.h"
#include "nlohmann/json.hpp"

namespace orthomerge {

// A tensor to be written, as the planner describes it.
struct OutputTensor {
  int index = 0;  // position among the plan's tensors, which are sorted by name
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kF32;  // of the output
  bool f64 = false;           // working dtype: float64 if any source is F64, else float32
  int models = 0;             // K: rows of its regions
  bool has_base = false;
  // mergekit's recipes: the method's parameters as they are for this tensor, and those of each row
  // ("weight" among them). Empty otherwise: the method's own are in MethodSpec.
  ParameterMap parameters = {};
  std::vector<ParameterMap> model_parameters = {};

  int64_t elements() const;
  bool is_matrix() const { return shape.size() == 2; }
  int64_t slice() const;    // elements of an index of the first axis; all of a vector
  int64_t columns() const;  // elements of a row, along the last axis; 1 of a scalar
};

// The smallest piece of a tensor that one call may be given.
enum class Access { kElement, kRow, kWhole };

// The sources for a range of elements, as rows of the working dtype (float or double, see `f64`).
// Aligned for any SIMD load. Row programs get whole rows, whole programs the whole tensor; regions
// of element programs start, for Accumulate, at a multiple of 16 elements from the leaf's start.
struct Region {
  bool f64 = false;
  int64_t offset = 0;  // first element, row-major
  int64_t elements = 0;
  int64_t columns = 0;           // row length for row and whole access
  const void* base = nullptr;    // null without a base
  absl::Span<void* const> rows;  // K rows: weights, or task vectors where the method asks
  // 0 where an element has a non-finite source, 1 elsewhere; null when all are finite. Such
  // elements add nothing to any reduction: in Accumulate their rows are set to 0, in Emit they
  // carry what the sources hold.
  const uint8_t* counts = nullptr;

  template <class T>
  const T* base_as() const {
    return static_cast<const T*>(base);
  }
  template <class T>
  T* row_as(size_t k) const {
    return static_cast<T*>(rows[k]);
  }
};

// A pass over the inputs before the one that writes.
struct Round {
  enum class Fold {
    kOrdered,  // float64 sums: kept per leaf (2^20 elements), folded in (tensor, leaf) order
    kExact,    // integer counts: folded in any order
  };
  // Who is solved together. A tensor is solved by its program (SolveTensor) as soon as its partial
  // is complete, often in the pass that writes; the model by Method::Solve, after a pass of its
  // own.
  enum class Group { kModel, kTensor };
  std::string name;
  Fold fold = Fold::kOrdered;
  int64_t width = 0;  // numbers per partial; of tensors: TensorProgram::width
  Group group = Group::kModel;
};

// The partial of one leaf while it is computed.
struct Accumulator {
  // kOrdered: width x 16 lanes. `offset` of the regions counts from the leaf's start modulo 16.
  absl::Span<double> lanes;
  // kExact: width counters, shared by many leaves.
  absl::Span<uint64_t> counters;
};

// The complete partial of one tensor: one of the two, as the round folds.
struct TensorPartial {
  absl::Span<const double> sums;
  absl::Span<const uint64_t> counters;
};

// Folded partials of a round: per tensor for kOrdered (empty vectors for tensors that took no
// part), one vector of counters for kExact.
struct Folded {
  std::vector<std::vector<double>> tensors;
  std::vector<uint64_t> counters;
};

// A tensor whose sources are all in memory.
class HeldTensor {
 public:
  virtual ~HeldTensor() = default;
  virtual int64_t elements() const = 0;
  virtual bool f64() const = 0;
  // Calls use(region) with regions as for Accumulate that have the elements from `begin`, a
  // multiple of 16, to `end`, in order. Rows and the like are only cut where these cut them.
  virtual absl::Status Visit(int64_t begin, int64_t end,
                             absl::FunctionRef<void(const Region&)> use) const = 0;
};

// What solving the rounds gave; small. Programs read it, each method knows its own layout.
struct Solved {
  struct Values {
    std::vector<double> model;                 // for the whole model
    std::vector<std::vector<double>> tensors;  // per tensor, by OutputTensor::index; may be empty
    std::vector<double> evidence;              // what Report needs beside them
    std::vector<MetricSeries> metrics;         // what Metrics tells, from solving itself
  };
  std::vector<Values> rounds;
  std::vector<Solved> variants;  // of a sweep, each variant's own rounds
};

// One tensor that a program writes. Sinks have as many elements as the tensor.
struct SinkSpec {
  // "" is the merged model; PATH.safetensors becomes that file of the output, others folders.
  std::string artifact;
  DType dtype = DType::kF32;
  // A mask, for programs that are not by row: U8 of shape [ceil(n / 8)], whatever `dtype` says.
  // Bit i mod 8 (the lowest first) of byte i / 8 is 1 where the value written for element i is not
  // 0; what is left of the last byte is 0.
  bool bits = false;
};

// A number beside an artifact's tensors, a float64 scalar of that name.
struct ScalarSpec {
  std::string artifact;
  std::string name;
};

class TensorProgram {
 public:
  virtual ~TensorProgram() = default;

  virtual Access access() const { return Access::kElement; }
  // Elements of a row, where access is by row.
  virtual int64_t row_elements(const OutputTensor& tensor) const { return tensor.columns(); }
  // `round` counts from 0 in every method.
  virtual bool takes_part(int round) const {
    (void)round;
    return false;
  }
  // Rounds of Group::kTensor. Whether the tensor needs `round`, given those before it: a pass that
  // no tensor needs is not made. Only asked if it takes part.
  virtual bool needs_round(int round, const Solved& solved) const {
    (void)round, (void)solved;
    return true;
  }
  // Numbers per partial of this tensor.
  virtual int64_t width(int round) const {
    (void)round;
    return 0;
  }
  // What goes into solved.rounds[the method's first_round() + round].tensors[the tensor's index];
  // empty for a round that was not needed.
  virtual absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                          const Solved& solved) const;
  // Of a tensor that is solved in memory: what SolveTensor would return, or something that tells
  // the same to this program, found without counting the whole tensor. Empty: count it.
  virtual absl::StatusOr<std::vector<double>> SolveHeld(int round, const HeldTensor& tensor,
                                                        const Solved& solved) const;
  // Bytes that this needs, and those of what it returns, if that grows with the tensor.
  virtual int64_t held_bytes() const { return 0; }
  virtual int64_t kept_bytes() const { return 0; }
  // Puts what SolveTensor returned into `solved`, for tensor number `tensor`. Here `round` is the
  // engine's: it counts from 0 in Solved.
  virtual void KeepSolved(int round, int tensor, std::vector<double> values, Solved* solved) const;
  // Adds a region to the partial of `round`. Rounds before it are solved.
  virtual void Accumulate(int round, const Region& region, const Solved& solved,
                          Accumulator& partial) const;
  // Writes one value of the working dtype per element to each sink that is not null, in the order
  // of sinks().
  virtual absl::Status Emit(const Region& region, const Solved& solved,
                            absl::Span<void* const> sinks) const = 0;
  virtual std::vector<SinkSpec> sinks(const OutputTensor& tensor) const {
    return {{"", tensor.dtype}};
  }
  // Bytes that Emit needs for so many elements beside its region and sinks.
  virtual int64_t working_bytes(int64_t elements) const {
    (void)elements;
    return 0;
  }
  // For the plan: what happens to this tensor, in a few words.
  virtual std::string description() const = 0;
};

// What a method found out, for the report.
struct MethodReport {
  nlohmann::ordered_json values = nlohmann::ordered_json::object();
  std::vector<std::string> warnings;
};

class Method {
 public:
  virtual ~Method() = default;

  // Rows hold task vectors (model - base, times the model's weight) instead of weights.
  virtual bool wants_task_vectors() const = 0;
  // The formula reads the base beside the rows (task-vector methods: to add it).
  virtual bool needs_base_values() const { return wants_task_vectors(); }
  // Uses core/math/linalg.h, whose numerics class then belongs to the plan.
  virtual bool uses_dense_algebra() const { return false; }
  // Called once with all tensors that the method will compile, before the first Compile;
  // first_round() is known.
  virtual absl::Status Prepare(absl::Span<const OutputTensor> tensors) {
    (void)tensors;
    return absl::OkStatus();
  }
  virtual std::vector<Round> rounds() const { return {}; }
  // A place for what the rounds give, of so many tensors.
  virtual Solved MakeSolved(size_t tensors) const;
  // Null: the tensor keeps the base's values (without a base: the first model's).
  virtual absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const = 0;
  // Turns the folded partials of `round` (from 0 in every method) into
  // solved->rounds[first_round() + round], which exists and is empty.
  virtual absl::Status Solve(int round, const Folded& folded, Solved* solved) const;
  // Numbers to write beside the sinks, in the order of scalars(): every round is solved.
  virtual std::vector<ScalarSpec> scalars() const { return {}; }
  virtual std::vector<double> ScalarValues(const Solved& solved) const;
  // Whether Map does what the parameters ask for; only transforms say OK.
  virtual absl::Status CheckTransform() const;
  // A transform's map: replaces the task vectors in the region's rows.
  virtual void Map(const OutputTensor& tensor, const Region& region, const Solved& solved) const;
  // Values of rounds of Group::kTensor are not for reports: a run that goes on after a stop does
  // not solve again what it has written.
  virtual void Report(const Solved& solved, MethodReport* report) const;
  // Appends what solving the rounds went through, for those who watch: every round is solved. The
  // same values on every run of a plan, all finite; names are in core/methods/README.md.
  virtual void Metrics(const Solved& solved, std::vector<MetricSeries>* metrics) const;

  // Where this method's rounds begin in Solved::rounds; above 0 in a chain.
  int first_round() const { return first_round_; }
  void set_first_round(int round) { first_round_ = round; }

 private:
  int first_round_ = 0;
};

// A method from its validated recipe entry.
struct MethodSpec {
  std::string name;
  ParameterMap parameters;
  std::vector<ParameterMap> model_parameters;  // per model, for per-model parameters
  std::vector<std::string> model_names;
  std::vector<double> weights;  // per model
  std::string device = "cpu";   // for dense algebra
  uint64_t seed = 0;            // of random methods (core/math/random.h)
};

// `transforms` run before the method, in order. The specs have been validated against the schemas.
absl::StatusOr<std::unique_ptr<Method>> MakeMethod(const MethodSpec& spec,
                                                   absl::Span<const MethodSpec> transforms);

// Parameters of a validated map.
double NumberOf(const ParameterMap& parameters, const std::string& name);
int64_t IntegerOf(const ParameterMap& parameters, const std::string& name);
bool BoolOf(const ParameterMap& parameters, const std::string& name);
std::string TextOf(const ParameterMap& parameters, const std::string& name);
// Whether `name` contains one of the texts of the parameter `exclude`.
bool IsExcluded(const ParameterMap& parameters, absl::string_view name);

}  // namespace orthomerge
