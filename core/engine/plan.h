// A plan: everything that is decided before the first weight is read. Tensors, programs, layout to
// the byte, parts, tasks, estimates. Immutable; a worker elsewhere that plans again from the same
// recipe and inputs gets the same digest.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/diagnostics.h"
#include "core/checkpoint/checkpoint.h"
#include "core/engine/engine.h"
#include "core/engine/row_map.h"
#include "core/engine/source_form.h"
#include "core/engine/token_rows.h"
#include "core/math/kernels.h"
#include "core/math/linalg.h"
#include "core/methods/method.h"
#include "core/recipe/recipe.h"

namespace orthomerge {

// Where one tensor of one input lies.
struct TensorSource {
  int file = 0;                                       // index into Plan::inputs
  uint64_t begin = 0;                                 // byte in that file
  DType dtype = DType::kF32;                          // of the bytes
  int origin = 0;                                     // index into Plan::origins
  std::shared_ptr<const StridedView> view = nullptr;  // as in TensorInfo
  std::shared_ptr<const SourceForm> form = nullptr;   // null: the bytes are the elements
  // Rows of task vectors: the source is the base's with something added, so the row is what `form`
  // adds (without one, 0), and no bytes are read.
  bool from_base = false;
  // Rows of embeddings: which row of the bytes is row i of the tensor (row_map.h).
  std::shared_ptr<const RowMap> rows = nullptr;
  bool from_side = false;  // `form` makes the row of side data alone: no bytes are read
  bool bits = false;       // a mask as SinkSpec::bits writes it; the row holds 0 and 1

  DType value_dtype() const { return form == nullptr ? dtype : form->dtype(); }
};

// Adapters as output: a matrix W of the model is written as what is added to it, as B A.
struct FactorPair {
  int64_t rank = 0;
  int64_t out = 0, in = 0;     // B is [out, rank], A is [rank, in]
  bool transposed = false;     // W is [in, out]
  std::string a_name, b_name;  // neighbours in the file
  bool base_is_zero = false;   // what the program emits is the change alone
  std::string module;
};

struct PlanTensor {
  OutputTensor tensor;
  // Programs: the base first if `base_source`, then one per row. Copies: the source of the bytes,
  // then those that must be equal to it.
  std::vector<TensorSource> sources;
  bool base_source = false;
  std::unique_ptr<TensorProgram> program;  // null: copied byte by byte
  bool keep = false;                       // program over the kept source alone
  bool streamed = false;                   // its own rounds take passes over the inputs
  bool at_once = false;                    // if not: solved by TensorProgram::SolveHeld
  uint64_t copy_bytes = 0;                 // copies: size of the tensor
  // Embeddings whose rows follow a new vocabulary: every source has `rows`, and this says what
  // stands for those that it lacks. Null otherwise.
  std::shared_ptr<const TokenRows> token_rows = nullptr;
  std::optional<FactorPair> factors;  // what is written for it, computed as a whole
  std::string written_name;           // in the output; empty: the tensor's name
  bool left_out = false;              // has a part in rounds only, and no place in the output
  std::string what;                   // for people: what happens to it

  bool copied() const { return program == nullptr; }
  int64_t row_elements() const;  // elements of a row of the first axis
};

// A tensor of an output file.
struct Placement {
  int tensor = 0;  // kScalar: no tensor of the plan's but the method's scalar number `sink`
  int sink = 0;
  DType dtype = DType::kF32;
  bool bits = false;   // a mask: one bit per element
  uint64_t begin = 0;  // bytes in the file
  uint64_t end = 0;
};

constexpr int kScalar = -1;

// Of a sweep: what is in which folder. Its appearance publishes all models.
constexpr char kVariantsFile[] = "variants.json";

// Of an adapter as output.
constexpr char kAdapterFile[] = "adapter/adapter_model.safetensors";

struct Part {
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct PlanFile {
  std::string artifact;  // "": the merged model; of a sweep one of Plan::models()
  std::string name;      // relative to the output
  std::string header;    // the file's first bytes
  uint64_t size = 0;
  std::vector<Placement> placements;  // in file order
  std::vector<Part> parts;            // they tile the file
};

// Consecutive parts of one file. Its result does not depend on what is written beside it.
struct WriteTask {
  int file = 0;
  int first_part = 0;
  int last_part = 0;  // one past
};

// Consecutive elements of a tensor (bytes, where it is copied).
struct Segment {
  int tensor = 0;
  int64_t first = 0;
  int64_t count = 0;
  int index = 0;  // of pieces: the segment of the unit that they belong to
};

struct ReduceTask {
  std::vector<Segment> leaves;  // whole leaves, in (tensor, leaf) order
};

// Small files that travel along.
struct PlanBlob {
  std::string name;
  std::string text;                // what to write, or
  std::optional<InputFile> input;  // what to copy
};

// How the budget is spent; decided from EngineOptions, never part of the digest.
struct MemoryPlan {
  int threads = 1;
  uint64_t chunk = 0;          // bytes per read and source
  int read_ahead = 0;          // further chunks in flight per thread (remote storage)
  int upload_slots = 0;        // further parts in flight per thread (remote storage)
  int files_at_once = 1;       // files of equal layout that are written from the same reads
  uint64_t peak = 0;           // estimate, bytes above the idle process
  uint64_t smallest = 0;       // smallest budget that works
  std::string largest_tensor;  // the whole-tensor program that decides `smallest`, if one does
  uint64_t solve_pool = 0;     // for tensors that are solved in memory, all threads together
  uint64_t side_pool = 0;      // for side data (side_data.h), all threads together
};

// How a module's factors came about.
struct AdapterModule {
  std::string name;
  int64_t rank = 0;
  double alpha = 0;
  int tensor = -1;  // index of the tensor that is decomposed; -1: factors of adapters put together
};

// The adapter that is written in place of a model.
struct AdapterPlan {
  std::vector<AdapterModule> modules;      // sorted by name
  std::vector<std::string> saved_modules;  // written in full, sorted
  const DenseAlgebra* algebra = nullptr;   // where a tensor is decomposed
};

class Plan {
 public:
  Recipe recipe;
  std::unique_ptr<Method> method;
  std::vector<std::string> origins;  // names of base and models, as TensorSource::origin counts
  std::vector<InputFile> inputs;
  std::vector<PlanTensor> tensors;  // sorted by name
  std::vector<double> row_factors;  // per origin: the weight that multiplies its task vector
  std::vector<PlanFile> files;      // root first, each artifact's shards in order
  std::vector<PlanBlob> blobs;      // config, sidecars, indexes but the root's
  std::string index;  // the root's index; empty with one file; of a sweep kVariantsFile
  std::vector<Round> rounds;
  std::vector<std::vector<ReduceTask>> reduce_tasks;  // per round
  std::vector<WriteTask> write_tasks;
  // Tasks that are carried out together, part by part: the same places in files of equal layout.
  std::vector<std::vector<int>> write_groups;
  std::optional<AdapterPlan> adapter;
  std::string numerics;  // numerics class
  std::string digest;    // SHA-256, hexadecimal
  bool remote_inputs = false;
  bool remote_output = false;
  MemoryPlan memory;
  int first_solve_round = 0;           // rounds from here on belong to tensors alone
  std::vector<uint64_t> reduce_bytes;  // to read, per round
  uint64_t write_bytes_read = 0;       // to read in the write stage
  uint64_t output_bytes = 0;
  uint64_t planning_bytes = 0;  // memory that planning took for vocabularies
  std::vector<Diagnostic> warnings;

  // Of several recipes, the plan of the one whose result is wanted has those of all others, in an
  // order in which they can run. Their outputs lie in its work area: `spool`, of all alike, where
  // inputs of kStage are found.
  std::vector<std::unique_ptr<Plan>> intermediates;
  std::optional<Uri> spool;
  std::string name;         // of an intermediate: its recipe's
  SourceLocation location;  // of the recipe; without a line where there is but one

  // With intermediates, but for passes().
  uint64_t total_bytes() const;  // read and written by all stages
  // The artifacts that are merged models: "" alone, or one folder per variant.
  std::vector<std::string> models() const;
  uint64_t spool_bytes() const;  // of all intermediates
  uint64_t peak_memory() const;  // of the most demanding recipe
  uint64_t smallest_budget() const;
  std::vector<int> passes() const;               // the rounds that take a pass of their own
  std::vector<std::string> stage_names() const;  // as Progress and StageResult name them
  // Where an input is while the plan runs. Results of other recipes have no version to expect:
  // nobody else writes to the work area.
  InputFile Located(const InputFile& input) const;
  // The object whose appearance publishes the model.
  const std::string& commit_name() const;
};

// Makes the method of a recipe; tests bring methods of their own.
using MethodMaker = std::function<absl::StatusOr<std::unique_ptr<Method>>(
    const MethodSpec& spec, absl::Span<const MethodSpec> transforms)>;
absl::StatusOr<std::unique_ptr<Plan>> MakePlanWith(const MethodMaker& make_method, Storage& storage,
                                                   const Recipe& recipe,
                                                   const EngineOptions& options,
                                                   const CallOptions& call,
                                                   Diagnostics* diagnostics);

// Bytes of `count` elements of a source.
uint64_t SourceBytes(const PlanTensor& tensor, const TensorSource& source, int64_t count);

// The places of `tensor` at which a region may start: every so many elements.
int64_t Granule(const PlanTensor& tensor);

// Whether the source's values are the base's own, or the base's with something added to them.
bool IsBase(const TensorSource& source, const TensorSource& base);
bool IsOnBase(const TensorSource& source, const TensorSource& base);

// Whether the tensor is written from one region with all of it.
bool IsWrittenWhole(const PlanTensor& tensor);

// Of Accumulate: regions are multiples of this many elements, leaves too.
int64_t RegionGranule(const PlanTensor& tensor);
// Elements of a leaf, whose partial is one number per lane: about kLeafElements.
int64_t LeafElements(const PlanTensor& tensor);
// Numbers per partial of the tensor in this round.
int64_t PartialWidth(const Plan& plan, int round, const PlanTensor& tensor);
// Whether the tensor has a part in the round, and whether it is solved in memory before it is
// written.
bool TakesPart(const PlanTensor& tensor, int round);
bool IsSolvedInMemory(const Plan& plan, const PlanTensor& tensor);
// Memory that this takes: the bytes of all sources, partials, rows.
uint64_t SolveBytes(const Plan& plan, const PlanTensor& tensor);

// For messages: "[4, 3]".
std::string ShapeText(const std::vector<int64_t>& shape);  // match.cc

class ModelInput;        // inputs.h
class PlannedTokenizer;  // tokenizer.h

// Steps of MakePlan; each is pure but for reading headers.
absl::Status MatchTensors(Plan* plan, const std::vector<ModelInput>& inputs, bool has_base,
                          PlannedTokenizer* tokenizer, Diagnostics* diagnostics);  // match.cc
// Gives every tensor that `mask` has one for its mask as the last source.
absl::Status AddMask(Plan* plan, const Checkpoint& mask, Diagnostics* diagnostics);  // rebuild.cc
// In place of MatchTensors where there is no base: tensors of what the adapters add to any base.
absl::Status MatchAdapters(Plan* plan, const std::vector<ModelInput>& inputs,
                           Diagnostics* diagnostics);  // adapter_match.cc
// Turns compiled tensors into those of the adapter's file.
absl::Status PlanAdapter(const std::vector<ModelInput>& inputs, const std::string& device,
                         Plan* plan, Diagnostics* diagnostics);  // adapter_output.cc
absl::Status CompileTensors(const MethodMaker& make_method, const std::string& device, Plan* plan,
                            Diagnostics* diagnostics);             // compile.cc
absl::Status LayOutFiles(Plan* plan);                              // layout.cc
void CutWriteTasks(Plan* plan);                                    // layout.cc
absl::Status FitMemory(Plan* plan, const EngineOptions& options);  // memory.cc
void CutReduceTasks(Plan* plan);                                   // layout.cc
// Files of equal layout, which can be written together: each file stands in one of the lists.
std::vector<std::vector<int>> AlikeFiles(const Plan& plan);  // layout.cc
void GroupWriteTasks(Plan* plan);                            // layout.cc

// Parts and tasks of about these sizes; tests make them smaller.
constexpr uint64_t kPartBytes = 8 * kMiB;
constexpr uint64_t kMinPartBytes = 5 * kMiB;
constexpr uint64_t kMaxParts = 8000;
constexpr uint64_t kTaskBytes = 64 * kMiB;
constexpr int64_t kLeavesPerTask = 8;

}  // namespace orthomerge
