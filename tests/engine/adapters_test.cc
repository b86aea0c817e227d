// Adapters as models: merged as if each had been merged into the base before.
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "base_model.model.";
constexpr char kTied[] = R"({"tie_word_embeddings": true})";

class AdaptersTest : public EngineTest {
 protected:
  AdaptersTest() {
    base_ = {RandomTensor("embed_tokens.weight", DType::kF32, {21, 8}, random_),
             RandomTensor("q.bias", DType::kF32, {12}, random_),
             RandomTensor("q.weight", DType::kBF16, {12, 8}, random_),
             RandomTensor("v.weight", DType::kF32, {9, 8}, random_)};
  }

  // Factors of `module` for a weight of [out, in], which are kept to know the result.
  void Add(const std::string& module, int64_t out, int64_t in, int64_t rank,
           DType dtype = DType::kF32) {
    adapter_.push_back(
        RandomTensor(absl::StrCat(kPrefix, module, ".lora_A.weight"), dtype, {rank, in}, random_));
    adapter_.push_back(
        RandomTensor(absl::StrCat(kPrefix, module, ".lora_B.weight"), dtype, {out, rank}, random_));
  }

  // Writes what was added as an adapter, and begins the next.
  TestModel WriteAdapter(const std::string& name, const std::string& settings) {
    WriteModel(Path(name), adapter_);
    fs::rename(Path(name + "/model.safetensors"), Path(name + "/adapter_model.safetensors"));
    WriteFile(Path(name + "/adapter_config.json"),
              absl::StrCat(R"({"peft_type":"LORA",)", settings, "}"));
    return std::exchange(adapter_, {});
  }

  // What scale * B A adds to an element of [out, in].
  static double Product(const TestModel& adapter, const std::string& module, double scale,
                        int64_t i) {
    const TestTensor& a = Find(adapter, absl::StrCat(kPrefix, module, ".lora_A.weight"));
    const TestTensor& b = Find(adapter, absl::StrCat(kPrefix, module, ".lora_B.weight"));
    const std::vector<double> left = b.values(), right = a.values();
    const int64_t rank = a.shape[0], in = a.shape[1];
    double sum = 0;
    for (int64_t r = 0; r < rank; ++r) sum += left[i / in * rank + r] * right[r * in + i % in];
    return scale * sum;
  }

  // Two adapters of one rank over the base, of ranks 3 and 2.
  void WriteTwo() {
    WriteModel(Path("base"), base_);
    Add("q", 12, 8, 3, DType::kF16);
    Add("v", 9, 8, 3);
    first_ = WriteAdapter("m0", R"("r":3,"lora_alpha":6)");
    Add("v", 9, 8, 2, DType::kBF16);
    second_ = WriteAdapter("m1", R"("r":2,"lora_alpha":1)");
  }

  std::mt19937_64 random_{17};
  TestModel base_, adapter_, first_, second_;
};

TEST_F(AdaptersTest, AddTheirProducts) {
  WriteTwo();
  Recipe recipe = MakeRecipe("task_arithmetic", 2, {{"lambda", 0.5}});
  recipe.models[1].weight = -3;
  const TestModel merged = Merge(recipe);
  const std::vector<double> v = Find(base_, "v.weight").values(),
                            got = Find(merged, "v.weight").values();
  for (size_t i = 0; i < v.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_NEAR(got[i],
                v[i] + 0.5 * (Product(first_, "v", 2, at) - 3 * Product(second_, "v", 0.5, at)),
                2e-6);
  }
  // One rounding, to the base's dtype.
  const TestTensor& q = Find(merged, "q.weight");
  EXPECT_EQ(q.dtype, DType::kBF16);
  for (size_t i = 0; i < q.values().size(); ++i) {
    const double want = Find(base_, "q.weight").values()[i] +
                        0.5 * Product(first_, "q", 2, static_cast<int64_t>(i));
    EXPECT_NEAR(q.values()[i], want, std::abs(want) / 250);
  }
  EXPECT_EQ(Find(merged, "embed_tokens.weight").bytes, Find(base_, "embed_tokens.weight").bytes);
}

TEST_F(AdaptersTest, MergeLikeTheModelsTheyMake) {
  WriteTwo();
  TestModel made[2] = {base_, base_};
  for (int k = 0; k < 2; ++k) {
    for (TestTensor& tensor : made[k]) {
      const std::string module = tensor.name.substr(0, tensor.name.find('.'));
      const bool changed = tensor.name == "v.weight" || (k == 0 && tensor.name == "q.weight");
      if (!changed) continue;
      std::vector<double> values = tensor.values();
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] +=
            Product(k == 0 ? first_ : second_, module, k == 0 ? 2 : 0.5, static_cast<int64_t>(i));
      }
      tensor = MakeTensor(tensor.name, DType::kF32, tensor.shape, values);
    }
  }
  for (const char* method : {"average", "task_arithmetic", "awd", "ties"}) {
    SCOPED_TRACE(method);
    Recipe recipe = MakeRecipe(method, 2);
    recipe.output.dtype = DType::kF32;
    const TestModel with_adapters = Merge(recipe);
    for (int k = 0; k < 2; ++k) {
      recipe.models[k].uri = UriOf(absl::StrCat("full", k));
      WriteModel(Path(absl::StrCat("full", k)), made[k]);
    }
    const TestModel with_models = Merge(recipe);
    ASSERT_EQ(with_adapters.size(), with_models.size());
    for (const TestTensor& tensor : with_models) {
      SCOPED_TRACE(tensor.name);
      const std::vector<double> want = tensor.values(),
                                got = Find(with_adapters, tensor.name).values();
      for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-5) << i;
    }
  }
}

TEST_F(AdaptersTest, GiveTheSameBytesWhateverTheResources) {
  base_ = {RandomTensor("q.weight", DType::kBF16, {997, 1201}, random_),
           RandomTensor("v.weight", DType::kF32, {1500, 1001}, random_),
           RandomTensor("w.weight", DType::kF64, {301, 97}, random_)};
  WriteModel(Path("base"), base_);
  for (int k = 0; k < 2; ++k) {
    Add("q", 997, 1201, 5);
    Add("v", 1500, 1001, 5);
    Add("w", 301, 97, 5, DType::kF64);
    WriteAdapter(absl::StrCat("m", k), R"("r":5,"lora_alpha":0.01)");
  }
  for (const char* method : {"average", "awd"}) {
    const Recipe recipe = MakeRecipe(method, 2);
    const std::unique_ptr<Plan> plan = PlanOf(recipe);
    ASSERT_NE(plan, nullptr);
    const uint64_t smallest = plan->memory.smallest;
    EXPECT_GE(plan->memory.side_pool, uint64_t{2} * 5 * (1500 + 1001) * 8);
    std::map<std::string, std::string> want;
    for (const auto& [threads, budget, chunk] : {std::tuple<int, uint64_t, uint64_t>{1, kGiB, 0},
                                                 {4, kGiB, 64 * kKiB},
                                                 {1, smallest, 0},
                                                 {4, smallest + smallest / 2, 100003}}) {
      EngineOptions options;
      options.threads = threads;
      options.memory_budget = budget;
      options.chunk_size = chunk;
      Run(recipe, options);
      const auto files = ModelFiles(Path("out"));
      if (want.empty()) want = files;
      EXPECT_TRUE(files == want) << method << ", " << threads << " threads, budget " << budget;
      fs::remove_all(Path("out"));
    }
  }
}

TEST_F(AdaptersTest, ReadNothingTwiceForTaskVectors) {
  WriteTwo();
  const std::unique_ptr<Plan> plan = PlanOf(MakeRecipe("task_arithmetic", 2));
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(plan->inputs.size(), 3u);
  for (const PlanTensor& tensor : plan->tensors) {
    if (tensor.copied()) continue;
    for (size_t s = 1; s < tensor.sources.size(); ++s) {
      EXPECT_TRUE(tensor.sources[s].from_base) << tensor.tensor.name;
      EXPECT_EQ(SourceBytes(tensor, tensor.sources[s], 100), 0u);
    }
  }
  const std::unique_ptr<Plan> average = PlanOf(MakeRecipe("average", 2));
  for (const PlanTensor& tensor : average->tensors) {
    for (const TensorSource& source : tensor.sources) EXPECT_FALSE(source.from_base);
  }
}

TEST_F(AdaptersTest, CarryWhatIsNotFinite) {
  std::vector<double> values = Find(base_, "v.weight").values();
  values[5] = std::nan("");
  base_[3] = MakeTensor("v.weight", DType::kF32, {9, 8}, values);
  WriteModel(Path("base"), base_);
  Add("v", 9, 8, 1);
  std::vector<double> b = adapter_[1].values();
  b[8] = INFINITY;
  adapter_[1] = MakeTensor(adapter_[1].name, DType::kF32, {9, 1}, b);
  WriteAdapter("m0", R"("r":1,"lora_alpha":1)");
  for (const char* method : {"task_arithmetic", "average"}) {
    const RunResult result = Run(MakeRecipe(method, 1));
    const std::vector<double> merged = Find(ReadModel(Path("out")), "v.weight").values();
    for (size_t i = 0; i < merged.size(); ++i) {
      EXPECT_EQ(std::isfinite(merged[i]), i != 5 && i < 64) << method << " " << i;
    }
    const auto report = nlohmann::json::parse(result.report_json);
    EXPECT_GE(report["nonfinite"]["models"]["m0"].get<int>(), 8);
    fs::remove_all(Path("out"));
  }
}

TEST_F(AdaptersTest, ScalesAndVersionsBelongToThePlan) {
  WriteTwo();
  const Recipe recipe = MakeRecipe("task_arithmetic", 2);
  const std::string digest = PlanOf(recipe)->digest;
  EXPECT_EQ(PlanOf(recipe)->digest, digest);
  WriteFile(Path("m0/adapter_config.json"), R"({"peft_type":"LORA","r":3,"lora_alpha":5})");
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  EXPECT_NE(plan->digest, digest);
  // Other factors than those that were planned with are never used.
  adapter_ = second_;
  adapter_[0] = Near(adapter_[0], random_);
  WriteAdapter("m1", R"("r":2,"lora_alpha":1)");
  const std::unique_ptr<ObjectStore> store = MakeLocalStore();  // with no file open
  Storage storage(store.get(), nullptr);
  EXPECT_THAT(RunPlan(storage, *plan, {}, {}), Fails(Reason::kInputChanged, "m1"));
  EXPECT_FALSE(fs::exists(Path("out")));
}

TEST_F(AdaptersTest, UntieAHeadThatTheyChange) {
  WriteModel(Path("base"), base_, kTied);
  Add("lm_head", 21, 8, 2);
  const TestModel adapter = WriteAdapter("m0", R"("r":2,"lora_alpha":2)");
  Add("v", 9, 8, 2);
  WriteAdapter("m1", R"("r":2,"lora_alpha":2)");
  const TestModel merged = Merge(MakeRecipe("task_arithmetic", 2, {{"lambda", 1.0}}));
  EXPECT_EQ(Find(merged, "embed_tokens.weight").bytes, Find(base_, "embed_tokens.weight").bytes);
  const std::vector<double> head = Find(merged, "lm_head.weight").values(),
                            embedding = Find(base_, "embed_tokens.weight").values();
  for (size_t i = 0; i < head.size(); ++i) {
    EXPECT_NEAR(head[i], embedding[i] + Product(adapter, "lm_head", 1, static_cast<int64_t>(i)),
                2e-6);
  }
  Run(MakeRecipe("task_arithmetic", 2));
  EXPECT_THAT(FilesBelow(Path("out"))["config.json"], testing::HasSubstr(": false"));
}

TEST_F(AdaptersTest, ReplaceTensorsAndRows) {
  WriteModel(Path("base"), base_);
  Add("q", 12, 8, 2);
  adapter_.push_back(RandomTensor(absl::StrCat(kPrefix, "v.weight"), DType::kF32, {9, 8}, random_));
  adapter_.push_back(
      RandomTensor(absl::StrCat(kPrefix, "q.lora_B.bias"), DType::kF32, {12}, random_));
  adapter_.push_back(
      RandomTensor(absl::StrCat(kPrefix, "embed_tokens.token_adapter.trainable_tokens_delta"),
                   DType::kF32, {2, 8}, random_));
  const TestModel adapter =
      WriteAdapter("m0", R"("r":2,"lora_alpha":1,"lora_bias":true,"modules_to_save":["v"],)"
                         R"("trainable_token_indices":[20,3])");
  const TestModel merged = Merge(MakeRecipe("average", 1));
  EXPECT_EQ(Find(merged, "v.weight").bytes, Find(adapter, "base_model.model.v.weight").bytes);
  std::vector<double> embedding = Find(base_, "embed_tokens.weight").values();
  const std::vector<double> rows = adapter.back().values();
  std::copy(rows.begin(), rows.begin() + 8, embedding.begin() + 160);
  std::copy(rows.begin() + 8, rows.end(), embedding.begin() + 24);
  EXPECT_EQ(Find(merged, "embed_tokens.weight").values(), embedding);
  const std::vector<double> bias = Find(merged, "q.bias").values();
  for (size_t i = 0; i < bias.size(); ++i) {
    EXPECT_NEAR(bias[i],
                Find(base_, "q.bias").values()[i] +
                    Find(adapter, "base_model.model.q.lora_B.bias").values()[i] / 2,
                1e-6);
  }
}

TEST_F(AdaptersTest, NeedABaseAndFitIt) {
  WriteTwo();
  Recipe recipe = MakeRecipe("average", 2, {}, false);
  EXPECT_THAT(TryPlan(recipe), Fails(Reason::kBaseMissing, "give `base`"));
  recipe = MakeRecipe("average", 2);
  recipe.base = UriOf("m0");
  EXPECT_THAT(TryPlan(recipe), Fails(Reason::kUnsupported, "the base must be a whole model"));
  base_.pop_back();
  WriteModel(Path("base"), base_);
  EXPECT_THAT(TryPlan(MakeRecipe("average", 2)), Fails(Reason::kTensorMissing, "v.lora_A.weight"));
  EXPECT_THAT(diagnostics_.items(), testing::SizeIs(2));  // both adapters, with their places
  EXPECT_EQ(diagnostics_.items()[1].field, "models[1]");
  base_.push_back(RandomTensor("v.weight", DType::kF8E4M3, {9, 8}, random_));
  WriteModel(Path("base"), base_);
  EXPECT_THAT(TryPlan(MakeRecipe("average", 2)), Fails(Reason::kUnsupportedDtype, "F8_E4M3"));
}

TEST_F(AdaptersTest, MayLieOnS3) {
  WriteTwo();
  Recipe recipe = MakeRecipe("task_arithmetic", 2);
  const TestModel want = Merge(recipe);
  const std::unique_ptr<Backend> backend = MakeBackend("s3");
  ASSERT_NE(backend, nullptr);
  for (const std::string name : {"base", "m0", "m1"}) {
    for (const auto& [file, bytes] : FilesBelow(Path(name))) {
      ASSERT_THAT(backend->store().Put(backend->root().Child(name).Child(file), bytes, {},
                                       Condition::kNone, {}),
                  IsOk());
    }
  }
  recipe.base = backend->root().Child("base");
  for (RecipeModel& model : recipe.models) model.uri = backend->root().Child(model.name);
  Storage storage(local_.get(), &backend->store());
  ASSERT_THAT(TryRun(recipe, storage), IsOk());
  for (const TestTensor& tensor : ReadModel(Path("out"))) {
    EXPECT_EQ(tensor.bytes, Find(want, tensor.name).bytes) << tensor.name;
  }
}

TEST_F(AdaptersTest, NoFaultOfTheStorageLeavesAModelBehind) {
  WriteTwo();
  const Recipe recipe = MakeRecipe("task_arithmetic", 2);
  NthFault none(local_.get(), 1 << 30, Reason::kStorageUnavailable, false);
  ASSERT_THAT(TryRun(recipe, none.storage()), IsOk());
  const auto want = ModelFiles(Path("out"));
  fs::remove_all(Path("out"));
  for (int64_t nth = 0; nth < none.operations(); ++nth) {
    NthFault fault(local_.get(), nth, Reason::kStorageUnavailable, false);
    EngineOptions options;
    options.threads = 2;
    const bool done = TryRun(recipe, fault.storage(), {}, options).ok();
    const bool there = fs::exists(Path("out"));  // perhaps what failed came after publishing
    EXPECT_TRUE(there || !done) << fault.what();
    EXPECT_TRUE(!there || ModelFiles(Path("out")) == want) << fault.what();
    fs::remove_all(Path("out"));
  }
  Run(recipe);
  EXPECT_TRUE(ModelFiles(Path("out")) == want);
}

}  // namespace
}  // namespace orthomerge
