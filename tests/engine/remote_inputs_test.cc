// Planning over inputs on S3, which are opened side by side.
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/header_cache.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

class RemoteInputsTest : public EngineTest {
 protected:
  void SetUp() override {
    std::mt19937_64 random(5);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random)};
    WriteModels(base, {Near(base, random), Near(base, random), Near(base, random)});
    backend_ = MakeBackend("s3");
    ASSERT_NE(backend_, nullptr);
    recipe_ = MakeRecipe("average", 3);
    Move("base", &*recipe_.base);
    for (RecipeModel& model : recipe_.models) Move(model.name, &model.uri);
  }

  void Move(const std::string& name, Uri* uri) {
    std::stringstream bytes;
    bytes << std::ifstream(Path(name + "/model.safetensors"), std::ios::binary).rdbuf();
    *uri = backend_->root().Child(name);
    ASSERT_THAT(backend_->store().Put(uri->Child("model.safetensors"), bytes.str(), {},
                                      Condition::kNone, {}),
                IsOk());
  }

  // `reads` counts those of headers.
  absl::StatusOr<std::unique_ptr<Plan>> PlanWith(HeaderCache* cache, std::atomic<int>* reads) {
    const auto store = MakeFaultStore(&backend_->store(), [&](Operation operation, const Uri& uri) {
      if (operation == Operation::kRead && uri.Name() == "model.safetensors") ++*reads;
      return Fault();
    });
    Storage storage(local_.get(), store.get());
    EngineOptions options;
    options.header_cache = cache;
    diagnostics_ = Diagnostics();
    return MakePlan(storage, recipe_, options, {}, &diagnostics_);
  }

  std::unique_ptr<Backend> backend_;
  Recipe recipe_;
};

TEST_F(RemoteInputsTest, AKnownHeaderGivesTheSamePlan) {
  std::atomic<int> reads{0};
  const auto cold = PlanWith(nullptr, &reads);
  ASSERT_THAT(cold, IsOk());
  EXPECT_EQ(reads, 4);
  HeaderCache cache;
  ASSERT_THAT(PlanWith(&cache, &reads), IsOk());
  EXPECT_EQ(reads, 8);
  const auto cached = PlanWith(&cache, &reads);
  ASSERT_THAT(cached, IsOk());
  EXPECT_EQ(reads, 8);
  EXPECT_EQ((*cached)->digest, (*cold)->digest);
  EXPECT_EQ((*cached)->origins, (*cold)->origins);
  for (size_t i = 0; i < (*cold)->inputs.size(); ++i) {
    EXPECT_EQ((*cached)->inputs[i].uri, (*cold)->inputs[i].uri);
    EXPECT_EQ((*cached)->inputs[i].etag, (*cold)->inputs[i].etag);
  }
  // Another version is read again.
  WriteModel(Path("m1"), {Find(ReadModel(Path("m2")), "a")});
  Move("m1", &recipe_.models[1].uri);
  const auto changed = PlanWith(&cache, &reads);
  ASSERT_THAT(changed, IsOk());
  EXPECT_EQ(reads, 9);
  EXPECT_NE((*changed)->digest, (*cold)->digest);
}

TEST_F(RemoteInputsTest, AllFaultsInTheOrderOfTheRecipe) {
  recipe_.models[2].uri = backend_->root().Child("no-such-model");
  recipe_.models[0].uri = UriOf("nor-this-one");
  std::atomic<int> reads{0};
  EXPECT_THAT(PlanWith(nullptr, &reads), Fails(Reason::kInputNotFound, "nor-this-one"));
  ASSERT_EQ(diagnostics_.items().size(), 2u);
  EXPECT_EQ(diagnostics_.items()[0].field, "models[0]");
  EXPECT_EQ(diagnostics_.items()[1].field, "models[2]");
  EXPECT_THAT(diagnostics_.items()[1].message, testing::HasSubstr("no-such-model"));
}

}  // namespace
}  // namespace orthomerge
