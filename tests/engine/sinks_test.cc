// A method that writes several tensors per tensor: the merged model, an artifact beside it and
// a packed mask in a file of its own, with numbers.
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

constexpr DType kMaskDType = DType::kBF16;
constexpr char kPacked[] = "packed/all.safetensors";

template <class T>
void EmitAs(const Region& region, absl::Span<void* const> sinks) {
  for (int64_t i = 0; i < region.elements; ++i) {
    T sum = 0;
    for (size_t k = 0; k < region.rows.size(); ++k) sum += region.row_as<T>(k)[i];
    if (sinks[0] != nullptr) static_cast<T*>(sinks[0])[i] = region.base_as<T>()[i] + sum;
    for (size_t s = 1; s < sinks.size(); ++s) {
      if (sinks[s] != nullptr) static_cast<T*>(sinks[s])[i] = sum > 0 ? T{1} : T{0};
    }
  }
}

// The sum of the task vectors and where it is positive. The first letter of a tensor's name is its
// access; "keep" stays as it is.
class SumAndMask : public Method {
 public:
  class Program : public TensorProgram {
   public:
    explicit Program(Access access) : access_(access) {}
    Access access() const override { return access_; }
    absl::Status Emit(const Region& region, const Solved&,
                      absl::Span<void* const> sinks) const override {
      if (access_ == Access::kRow && region.elements % region.columns != 0) {
        return MakeError(Reason::kInternal, "a row was torn");
      }
      region.f64 ? EmitAs<double>(region, sinks) : EmitAs<float>(region, sinks);
      return absl::OkStatus();
    }
    std::vector<SinkSpec> sinks(const OutputTensor& tensor) const override {
      std::vector<SinkSpec> sinks = {{"", tensor.dtype}, {"masks", kMaskDType}};
      if (access_ != Access::kRow) sinks.push_back({kPacked, DType::kF32, /*bits=*/true});
      return sinks;
    }
    std::string description() const override { return "summed and masked"; }

   private:
    const Access access_;
  };

  bool wants_task_vectors() const override { return true; }
  std::vector<ScalarSpec> scalars() const override {
    return {{kPacked, "first"}, {kPacked, "second"}, {"masks", "third"}};
  }
  std::vector<double> ScalarValues(const Solved&) const override { return {0.5, -1e300, 3}; }
  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (tensor.name == "keep") return nullptr;
    return std::make_unique<Program>(tensor.name[0] == 'w'   ? Access::kWhole
                                     : tensor.name[0] == 'r' ? Access::kRow
                                                             : Access::kElement);
  }
};

class SinksTest : public EngineTest {
 protected:
  SinksTest() {
    std::mt19937_64 random(11);
    base_ = {RandomTensor("e.bf16", DType::kBF16, {1500, 1999}, random),
             RandomTensor("e.f64", DType::kF64, {1013}, random),
             RandomTensor("r.narrow", DType::kF32, {50021, 7}, random),
             RandomTensor("w.matrix", DType::kF32, {1601, 1200}, random),
             RandomTensor("r.wide", DType::kF16, {3, 400009}, random),
             RandomTensor("e.scalar", DType::kF32, {}, random),
             RandomTensor("e.empty", DType::kF32, {0, 4}, random),
             RandomTensor("ids", DType::kI64, {100}, random),
             RandomTensor("keep", DType::kF32, {77}, random)};
    models_ = {Near(base_, random), Near(base_, random)};
    WriteModels(base_, models_);
  }

  void Merge(uint64_t max_shard_size, const EngineOptions& options) {
    Recipe recipe = MakeRecipe("of a test", 2);
    recipe.output.max_shard_size = max_shard_size;
    const MethodMaker maker = [](const MethodSpec&, absl::Span<const MethodSpec>) {
      return absl::StatusOr<std::unique_ptr<Method>>(std::make_unique<SumAndMask>());
    };
    const auto plan = MakePlanWith(maker, storage_, recipe, options, CallOptions(), &diagnostics_);
    ASSERT_THAT(plan, IsOk());
    largest_parts_ = 0;
    for (const PlanFile& file : (*plan)->files) {
      largest_parts_ = std::max(largest_parts_, file.parts.size());
    }
    ASSERT_THAT(RunPlan(storage_, **plan, CallOptions(), {}), IsOk());
  }

  void ExpectBothOutputs() {
    const TestModel merged = ReadModel(Path("out")), masks = ReadModel(Path("out/masks"));
    const TestModel packed = ReadModel(Path(absl::StrCat("out/", kPacked)));
    ASSERT_EQ(merged.size(), base_.size());
    EXPECT_EQ(masks.size(), base_.size() - 2 + 1);   // neither the integers nor "keep"
    EXPECT_EQ(packed.size(), base_.size() - 4 + 2);  // nor what is computed by row
    EXPECT_EQ(Find(packed, "first").values(), (std::vector<double>{0.5}));
    EXPECT_EQ(Find(packed, "second").values(), (std::vector<double>{-1e300}));
    EXPECT_EQ(Find(masks, "third").values(), (std::vector<double>{3}));
    EXPECT_EQ(Find(packed, "first").dtype, DType::kF64);
    EXPECT_TRUE(Find(packed, "first").shape.empty());
    for (const TestTensor& tensor : base_) {
      const TestTensor& got = Find(merged, tensor.name);
      EXPECT_EQ(got.dtype, tensor.dtype);
      EXPECT_EQ(got.shape, tensor.shape);
      if (tensor.name == "keep" || tensor.name == "ids") {
        EXPECT_EQ(got.bytes, tensor.bytes);
        continue;
      }
      const TestTensor& mask = Find(masks, tensor.name);
      EXPECT_EQ(mask.dtype, kMaskDType);
      EXPECT_EQ(mask.shape, tensor.shape);
      const std::vector<double> b = tensor.values(), x = Find(models_[0], tensor.name).values(),
                                y = Find(models_[1], tensor.name).values();
      std::vector<double> sums(b.size()), ones(b.size());
      for (size_t i = 0; i < b.size(); ++i) {
        double sum = (x[i] - b[i]) + (y[i] - b[i]);
        if (tensor.dtype != DType::kF64) {
          const auto f = [](double value) { return static_cast<float>(value); };
          const float narrow = (f(x[i]) - f(b[i])) + (f(y[i]) - f(b[i]));
          sum = narrow;
          sums[i] = f(b[i]) + narrow;
        } else {
          sums[i] = b[i] + sum;
        }
        ones[i] = sum > 0 ? 1 : 0;
      }
      EXPECT_EQ(got.bytes, MakeTensor("", tensor.dtype, tensor.shape, sums).bytes) << tensor.name;
      EXPECT_EQ(mask.bytes, MakeTensor("", kMaskDType, tensor.shape, ones).bytes) << tensor.name;
      if (tensor.name[0] == 'r') continue;
      const TestTensor& bits = Find(packed, tensor.name);
      std::string want((ones.size() + 7) / 8, '\0');
      for (size_t i = 0; i < ones.size(); ++i) {
        if (ones[i] != 0) want[i / 8] = static_cast<char>(want[i / 8] | 1 << (i % 8));
      }
      EXPECT_EQ(bits.dtype, DType::kU8);
      EXPECT_EQ(bits.shape, (std::vector<int64_t>{static_cast<int64_t>(want.size())}));
      EXPECT_TRUE(bits.bytes == want) << tensor.name;
    }
  }

  TestModel base_;
  std::vector<TestModel> models_;
  size_t largest_parts_ = 0;
};

TEST_F(SinksTest, BothOutputsAreCompleteAcrossParts) {
  EngineOptions options;
  options.chunk_size = 64 * kKiB;
  options.threads = 3;
  Merge(5'000'000'000, options);
  EXPECT_GT(largest_parts_, 1u);
  ExpectBothOutputs();
  EXPECT_TRUE(std::filesystem::exists(Path("out/masks/model.safetensors")));
}

TEST_F(SinksTest, BothOutputsAreShardedWithTheirOwnIndex) {
  Merge(3'000'000, {});
  ExpectBothOutputs();
  EXPECT_TRUE(std::filesystem::exists(Path("out/model.safetensors.index.json")));
  EXPECT_TRUE(std::filesystem::exists(Path("out/masks/model.safetensors.index.json")));
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

}  // namespace
}  // namespace orthomerge
