// Output files to the byte, their parts and the tasks, over random sets of tensors. Nothing is read
// or written here, so the files can be huge.
#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/checkpoint/safetensors.h"
#include "core/math/kernels.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

class Shaped : public TensorProgram {
 public:
  explicit Shaped(Access access) : access_(access) {}
  Access access() const override { return access_; }
  bool takes_part(int) const override { return access_ != Access::kWhole; }
  absl::Status Emit(const Region&, const Solved&, absl::Span<void* const>) const override {
    return absl::OkStatus();
  }
  std::string description() const override { return "laid out"; }

 private:
  const Access access_;
};

// Lays out nothing of its own.
class PlainMethod : public Method {
 public:
  bool wants_task_vectors() const override { return false; }
  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(const OutputTensor&) const override {
    return std::unique_ptr<TensorProgram>();
  }
};

// Adds a tensor; without a program it is copied.
void Add(Plan* plan, DType dtype, std::vector<int64_t> shape, std::optional<Access> access,
         std::string name = "") {
  PlanTensor tensor;
  tensor.tensor.index = static_cast<int>(plan->tensors.size());
  tensor.tensor.name = name.empty() ? absl::StrFormat("t%05d", tensor.tensor.index) : name;
  tensor.tensor.shape = std::move(shape);
  tensor.tensor.dtype = dtype;
  tensor.tensor.models = 2;
  tensor.sources = {{0, 0, dtype, 0}, {1, 0, dtype, 1}};
  if (access.has_value()) {
    tensor.program = std::make_unique<Shaped>(*access);
  } else {
    tensor.sources.resize(1);
    tensor.copy_bytes =
        static_cast<uint64_t>(tensor.tensor.elements()) * static_cast<uint64_t>(BitsOf(dtype)) / 8;
  }
  plan->tensors.push_back(std::move(tensor));
}

void LayOut(Plan* plan) {
  plan->method = std::make_unique<PlainMethod>();
  ASSERT_THAT(LayOutFiles(plan), IsOk());
  CutWriteTasks(plan);
  CutReduceTasks(plan);
}

uint64_t BytesOf(const Plan& plan, const Placement& placement) {
  return static_cast<uint64_t>(plan.tensors[placement.tensor].tensor.elements()) *
         static_cast<uint64_t>(BitsOf(placement.dtype)) / 8;
}

void ExpectHeaderEqualsPlacements(const Plan& plan, const PlanFile& file) {
  const auto header = ParseSafetensorsHeader(file.header.substr(8), file.size);
  ASSERT_THAT(header, IsOk());
  ASSERT_EQ(header->size(), file.placements.size());
  for (const Placement& placement : file.placements) {
    const OutputTensor& tensor = plan.tensors[placement.tensor].tensor;
    const auto info = std::find_if(header->begin(), header->end(),
                                   [&](const TensorInfo& i) { return i.name == tensor.name; });
    ASSERT_NE(info, header->end()) << tensor.name;
    EXPECT_EQ(info->begin, placement.begin);
    EXPECT_EQ(info->end, placement.end);
    EXPECT_EQ(info->dtype, placement.dtype);
    EXPECT_EQ(info->shape, tensor.shape);
    EXPECT_EQ(placement.end - placement.begin, BytesOf(plan, placement));
  }
}

// Whether a part may end at byte `place`.
bool MayCut(const Plan& plan, const PlanFile& file, uint64_t place) {
  if (place < file.header.size()) return false;
  for (const Placement& placement : file.placements) {
    if (place <= placement.begin || place >= placement.end) continue;
    const PlanTensor& tensor = plan.tensors[placement.tensor];
    const uint64_t within = place - placement.begin;
    const auto bits = static_cast<uint64_t>(BitsOf(placement.dtype));
    if (tensor.copied()) return within % std::max<uint64_t>(1, bits / 8) == 0;
    const Access access = tensor.program->access();
    if (access == Access::kWhole) return false;
    const auto columns = static_cast<uint64_t>(tensor.tensor.columns());
    return within % (bits / 8 * (access == Access::kRow ? columns : 1)) == 0;
  }
  return true;
}

void ExpectParts(const Plan& plan, const PlanFile& file) {
  ASSERT_FALSE(file.parts.empty());
  EXPECT_LE(file.parts.size(), kMaxParts);
  EXPECT_EQ(file.parts.front().begin, 0u);
  EXPECT_EQ(file.parts.back().end, file.size);
  for (size_t p = 1; p < file.parts.size(); ++p) {
    EXPECT_EQ(file.parts[p].begin, file.parts[p - 1].end);
    EXPECT_TRUE(MayCut(plan, file, file.parts[p].begin)) << file.name << " part " << p;
  }
  for (size_t p = 0; file.parts.size() > 1 && p < file.parts.size(); ++p) {
    // Object storage takes no smaller parts, the last included by our own rule.
    EXPECT_GE(file.parts[p].end - file.parts[p].begin, kMinPartBytes) << file.name << " part " << p;
  }
}

void ExpectTasks(const Plan& plan) {
  std::vector<std::vector<int>> covered;
  for (const PlanFile& file : plan.files) covered.emplace_back(file.parts.size(), 0);
  for (const WriteTask& task : plan.write_tasks) {
    ASSERT_LT(task.first_part, task.last_part);
    const std::vector<Part>& parts = plan.files[task.file].parts;
    for (int p = task.first_part; p < task.last_part; ++p) ++covered[task.file][p];
    const uint64_t bytes = parts[task.last_part - 1].end - parts[task.first_part].begin;
    EXPECT_TRUE(bytes <= kTaskBytes || task.last_part == task.first_part + 1);
  }
  for (const std::vector<int>& file : covered) EXPECT_THAT(file, testing::Each(1));
  for (const std::vector<ReduceTask>& tasks : plan.reduce_tasks) {
    std::vector<int64_t> next(plan.tensors.size(), 0);
    int last_tensor = 0;
    for (const ReduceTask& task : tasks) {
      int64_t elements = 0;
      ASSERT_FALSE(task.leaves.empty());
      for (const Segment& leaf : task.leaves) {
        EXPECT_LE(last_tensor, leaf.tensor);
        last_tensor = leaf.tensor;
        EXPECT_EQ(leaf.first, next[leaf.tensor]);
        const int64_t whole = LeafElements(plan.tensors[leaf.tensor]);
        EXPECT_EQ(leaf.first % whole, 0);
        EXPECT_GT(leaf.count, 0);
        EXPECT_LE(leaf.count, whole);
        next[leaf.tensor] += leaf.count;
        elements += leaf.count;
      }
      EXPECT_TRUE(elements <= kLeavesPerTask * kLeafElements || task.leaves.size() == 1);
    }
    for (size_t t = 0; t < plan.tensors.size(); ++t) {
      const PlanTensor& tensor = plan.tensors[t];
      const bool counts = !tensor.copied() && tensor.program->takes_part(0);
      EXPECT_EQ(next[t], counts ? tensor.tensor.elements() : 0) << tensor.tensor.name;
    }
  }
}

void ExpectShards(const Plan& plan) {
  std::map<std::string, std::string> where;
  uint64_t total = 0;
  for (size_t f = 0; f < plan.files.size(); ++f) {
    const PlanFile& file = plan.files[f];
    uint64_t bytes = 0;
    for (const Placement& placement : file.placements) {
      EXPECT_TRUE(where.emplace(plan.tensors[placement.tensor].tensor.name, file.name).second);
      bytes += placement.end - placement.begin;
    }
    total += bytes;
    EXPECT_TRUE(bytes <= plan.recipe.output.max_shard_size || file.placements.size() == 1);
    EXPECT_EQ(file.name, plan.files.size() == 1 ? "model.safetensors"
                                                : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                                                  f + 1, plan.files.size()));
  }
  EXPECT_EQ(where.size(), plan.tensors.size());
  if (plan.files.size() == 1) {
    EXPECT_EQ(plan.index, "");
    EXPECT_EQ(plan.commit_name(), "model.safetensors");
    return;
  }
  EXPECT_EQ(plan.commit_name(), "model.safetensors.index.json");
  const auto index = nlohmann::json::parse(plan.index);
  EXPECT_EQ(index["metadata"], (nlohmann::json{{"total_size", total}}));
  EXPECT_EQ((index["weight_map"].get<std::map<std::string, std::string>>()), where);
}

void ExpectAll(const Plan& plan) {
  uint64_t bytes = 0;
  for (const PlanFile& file : plan.files) {
    ExpectHeaderEqualsPlacements(plan, file);
    ExpectParts(plan, file);
    bytes += file.size;
  }
  EXPECT_EQ(plan.output_bytes, bytes);
  ExpectTasks(plan);
  ExpectShards(plan);
}

TEST(Layout, RandomTensorsOfAllKinds) {
  std::mt19937_64 random(7);
  const std::vector<DType> floats = {DType::kF16, DType::kBF16, DType::kF32, DType::kF64};
  const std::vector<DType> others = {DType::kI64, DType::kU8,     DType::kBool, DType::kF8E4M3,
                                     DType::kF4,  DType::kF6E2M3, DType::kC64,  DType::kI16};
  for (int round = 0; round < 150; ++round) {
    Plan plan;
    plan.rounds.resize(round % 2);
    plan.recipe.output.max_shard_size = uint64_t{1} << (20 + random() % 17);
    const size_t tensors = 1 + random() % 60;
    for (size_t t = 0; t < tensors; ++t) {
      const auto rows = static_cast<int64_t>(random() % (uint64_t{1} << (random() % 17)));
      const auto columns = static_cast<int64_t>(random() % (uint64_t{1} << (random() % 14)));
      std::vector<int64_t> shape = {rows, columns};
      if (random() % 5 == 0) shape = {};
      if (random() % 5 == 0) shape = {rows * columns};
      const uint64_t kind = random() % 4;
      if (kind == 3) {
        if (!shape.empty()) shape.push_back(4);  // whole bytes of sub-byte elements
        Add(&plan, shape.empty() ? DType::kI64 : others[random() % others.size()], shape,
            std::nullopt);
      } else {
        Add(&plan, floats[random() % floats.size()], shape, static_cast<Access>(kind));
      }
    }
    LayOut(&plan);
    ExpectAll(plan);
    if (HasFailure()) FAIL() << "in round " << round;
  }
}

TEST(Layout, PartsOfElementProgramsAreCutEveryEightMegabytes) {
  Plan plan;
  Add(&plan, DType::kBF16, {100 * (int64_t{1} << 20)}, Access::kElement);
  LayOut(&plan);
  ExpectAll(plan);
  const std::vector<Part>& parts = plan.files[0].parts;
  ASSERT_EQ(parts.size(), 25u);  // 200 MiB and a header that joins the last part
  for (size_t p = 0; p + 1 < parts.size(); ++p) EXPECT_EQ(parts[p].end, (p + 1) * kPartBytes);
  EXPECT_GT(parts.back().end - parts.back().begin, kPartBytes);
  EXPECT_EQ(plan.write_tasks.size(), 4u);  // of 8 parts
}

TEST(Layout, ATailOfFiveMegabytesIsAPartOfItsOwn) {
  for (const uint64_t tail : {kMinPartBytes - 1, kMinPartBytes, kMinPartBytes + 1}) {
    Plan probe, plan;
    Add(&probe, DType::kU8, {1000000}, std::nullopt);
    LayOut(&probe);
    const uint64_t bytes = kPartBytes + tail - probe.files[0].header.size();
    Add(&plan, DType::kU8, {static_cast<int64_t>(bytes)}, std::nullopt);
    LayOut(&plan);
    ASSERT_EQ(plan.files[0].size, kPartBytes + tail);
    EXPECT_EQ(plan.files[0].parts.size(), tail < kMinPartBytes ? 1u : 2u);
    ExpectAll(plan);
  }
}

TEST(Layout, AMatrixComputedAsAWholeIsNeverCut) {
  Plan plan;
  Add(&plan, DType::kF32, {1000, 1000}, Access::kElement);
  Add(&plan, DType::kF32, {2600, 2000}, Access::kWhole);  // ends just before 24 MiB
  Add(&plan, DType::kF32, {1000, 5000}, Access::kElement);
  LayOut(&plan);
  ExpectAll(plan);
  EXPECT_EQ(plan.files[0].parts[0].end, plan.files[0].placements[1].end);
}

TEST(Layout, ALongHeaderIsOnePiece) {
  Plan plan;
  for (int i = 0; i < 150; ++i) {
    Add(&plan, DType::kF32, {1 << 16}, Access::kElement,
        absl::StrFormat("%s%03d", std::string(100'000, 'n'), i));
  }
  LayOut(&plan);
  ExpectAll(plan);
  EXPECT_GT(plan.files[0].header.size(), kPartBytes);
  EXPECT_GE(plan.files[0].parts[0].end, plan.files[0].header.size());
}

TEST(Layout, HugeFilesHaveAtMostEightThousandParts) {
  // 8000 parts of 8 MiB are 62.5 GiB; around that and far beyond.
  for (const int64_t gib : {62, 63, 125, 126, 700}) {
    Plan plan;
    plan.recipe.output.max_shard_size = uint64_t{1} << 50;
    Add(&plan, DType::kBF16, {gib, int64_t{1} << 29}, Access::kElement);
    Add(&plan, DType::kBF16, {gib, 1000003}, Access::kRow);
    LayOut(&plan);
    ExpectParts(plan, plan.files[0]);
    EXPECT_GT(plan.files[0].parts.size(), 3000u);
  }
}

TEST(Layout, NoTensorIsSplitOverShardsAndLargeOnesStandAlone) {
  Plan plan;
  plan.rounds.resize(1);
  plan.recipe.output.max_shard_size = 4000;
  Add(&plan, DType::kF32, {10}, Access::kElement);    // 40 bytes
  Add(&plan, DType::kF32, {990}, Access::kElement);   // fits exactly
  Add(&plan, DType::kF32, {1}, Access::kElement);     // one too many
  Add(&plan, DType::kF32, {2000}, Access::kElement);  // larger than a shard may be
  Add(&plan, DType::kF32, {2}, Access::kElement);
  LayOut(&plan);
  ExpectAll(plan);
  ASSERT_EQ(plan.files.size(), 4u);
  EXPECT_EQ(plan.files[0].placements.size(), 2u);
  EXPECT_EQ(plan.files[2].placements[0].tensor, 3);
}

TEST(Layout, AModelOfEmptyTensorsIsAHeaderAlone) {
  Plan plan;
  plan.rounds.resize(1);
  Add(&plan, DType::kF32, {0}, Access::kElement);
  Add(&plan, DType::kF16, {3, 0}, Access::kRow);
  Add(&plan, DType::kI64, {0, 5}, std::nullopt);
  LayOut(&plan);
  ExpectAll(plan);
  EXPECT_EQ(plan.files[0].size, plan.files[0].header.size());
  EXPECT_THAT(plan.reduce_tasks[0], testing::IsEmpty());
}

}  // namespace
}  // namespace orthomerge
