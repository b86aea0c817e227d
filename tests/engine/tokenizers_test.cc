// Models of different vocabularies: the output's tokens, the rows of its embeddings, its files.
#include <filesystem>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/checkpoint/vocabulary.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

std::string TokenizerText(const std::vector<std::string>& tokens, const std::string& added = "",
                          const std::string& kind = "WordLevel") {
  nlohmann::json vocabulary = nlohmann::json::object();
  for (size_t i = 0; i < tokens.size(); ++i) vocabulary[tokens[i]] = i;
  return absl::StrCat(R"({"added_tokens":[)", added, R"(],"model":{"type":")", kind,
                      R"(","vocab":)", vocabulary.dump(), "}}");
}

std::string Added(const std::string& token, int64_t id) {
  return absl::StrCat(R"({"id":)", id, R"(,"content":")", token, R"(","special":true})");
}

class TokenizersTest : public EngineTest {
 protected:
  // A model with `tokens`, embeddings of `rows` rows (0: as many as tokens) and one more tensor.
  TestModel Write(const std::string& name, const std::vector<std::string>& tokens,
                  const std::string& added = "", int64_t rows = 0) {
    if (rows == 0) rows = static_cast<int64_t>(tokens.size());
    TestModel model = {RandomTensor(kHead, DType::kF32, {rows, columns_}, random_),
                       RandomTensor(kEmbedding, DType::kBF16, {rows, columns_}, random_),
                       RandomTensor("model.norm.weight", DType::kF32, {columns_}, random_)};
    WriteModel(Path(name), model, absl::StrCat(R"({"vocab_size": )", rows, "}"));
    WriteFile(Path(name + "/tokenizer.json"), TokenizerText(tokens, added));
    return model;
  }

  Recipe Parse(const std::string& text) {
    diagnostics_ = Diagnostics();
    const auto recipe =
        ParseRecipe({"recipe.yaml", text, folder_.path(), folder_.path()}, {}, &diagnostics_);
    EXPECT_THAT(recipe, IsOk());
    Recipe result = recipe.value_or(Recipe());
    result.output.uri = UriOf("out");
    return result;
  }

  // linear over models of weight 1, with `more` keys.
  Recipe Linear(const std::vector<std::string>& models, const std::string& more) {
    std::string text = "merge_method: linear\nmodels:\n";
    for (const std::string& model : models) {
      absl::StrAppend(&text, "  - {model: ", model, ", parameters: {weight: 1}}\n");
    }
    return Parse(text + more);
  }

  static std::vector<double> Row(const TestModel& model, int64_t row,
                                 const std::string& name = kHead) {
    const TestTensor& tensor = Find(model, name);
    const std::vector<double> values = tensor.values();
    const int64_t columns = tensor.shape[1];
    return {values.begin() + row * columns, values.begin() + (row + 1) * columns};
  }

  static std::vector<double> Mean(const std::vector<std::vector<double>>& rows) {
    std::vector<double> mean(rows[0].size(), 0.0);
    for (const std::vector<double>& row : rows) {
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += row[i] / rows.size();
    }
    return mean;
  }

  static void ExpectNear(const std::vector<double>& got, const std::vector<double>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-6) << i;
  }

  void ExpectFault(const Recipe& recipe, Reason reason, const std::vector<std::string>& texts) {
    const auto plan = TryPlan(recipe);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(ReasonOf(plan.status()), reason) << plan.status();
    for (const std::string& text : texts) EXPECT_THAT(plan.status().message(), HasSubstr(text));
  }

  std::string OutputFile(const std::string& name) { return FilesBelow(Path("out"))[name]; }

  int64_t columns_ = 5;
  std::mt19937_64 random_{31};
};

TEST_F(TokenizersTest, RowsFollowTheirTokens) {
  const TestModel a = Write("a", {"p", "q", "r"});
  const TestModel b = Write("b", {"r", "s", "p"});
  const TestModel c = Write("c", {"s", "p", "t", "u"}, Added("u", 3));
  const TestModel merged =
      Merge(Linear({"a", "b", "c"}, "tokenizer: {source: union, pad_to_multiple_of: 4}\n"));
  // p q r | s t | u and padding to 8
  ASSERT_THAT(Find(merged, kHead).shape, testing::ElementsAre(8, columns_));
  ASSERT_THAT(Find(merged, kEmbedding).shape, testing::ElementsAre(8, columns_));
  const auto third = [](const std::vector<double>& x, const std::vector<double>& y,
                        const std::vector<double>& z) { return Mean({x, y, z}); };
  ExpectNear(Row(merged, 0), third(Row(a, 0), Row(b, 2), Row(c, 1)));
  ExpectNear(Row(merged, 1), Row(a, 1));  // of one model only: its row in all
  const std::vector<double> r = Mean({Row(a, 2), Row(b, 0)});
  ExpectNear(Row(merged, 2), third(Row(a, 2), Row(b, 0), r));
  const std::vector<double> s = Mean({Row(b, 1), Row(c, 0)});
  ExpectNear(Row(merged, 3), third(s, Row(b, 1), Row(c, 0)));
  ExpectNear(Row(merged, 4), Row(c, 2));
  ExpectNear(Row(merged, 5), Row(c, 3));
  std::vector<std::vector<double>> rows;
  for (int64_t i = 0; i < 6; ++i) rows.push_back(Row(merged, i));
  ExpectNear(Row(merged, 6), Mean(rows));  // the mean of means, as weights are equal
  EXPECT_EQ(Row(merged, 7), Row(merged, 6));
}

TEST_F(TokenizersTest, TheBaseStandsInWhereItHasTheToken) {
  const TestModel base = Write("base", {"p", "q"});
  const TestModel a = Write("a", {"q", "x"}), b = Write("b", {"x", "p"});
  const TestModel merged = Merge(
      Parse("merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
            "  - {model: a, parameters: {weight: 2}}\n  - {model: b, parameters: {weight: 4}}\n"
            "tokenizer_source: union\n"));
  const auto task = [](const std::vector<double>& at, const std::vector<double>& x,
                       const std::vector<double>& y) {
    std::vector<double> result = at;
    for (size_t i = 0; i < at.size(); ++i) result[i] += 2 * (x[i] - at[i]) + 4 * (y[i] - at[i]);
    return result;
  };
  ExpectNear(Row(merged, 0), task(Row(base, 0), Row(base, 0), Row(b, 1)));
  ExpectNear(Row(merged, 1), task(Row(base, 1), Row(a, 0), Row(base, 1)));
  const std::vector<double> x = Mean({Row(a, 1), Row(b, 0)});  // in the base's place
  ExpectNear(Row(merged, 2), task(x, Row(a, 1), Row(b, 0)));
}

TEST_F(TokenizersTest, ASlicesOwnBaseStandsIn) {
  const TestModel base = Write("base", {"p", "q", "x"}), own = Write("own", {"p", "q", "y"});
  const TestModel a = Write("a", {"x", "y", "p"});
  for (const char* name : {"base", "own", "a"}) {
    TestModel model = ReadModel(Path(name));
    model.push_back(RandomTensor("model.layers.0.w", DType::kF32, {columns_}, random_));
    WriteModel(Path(name), model, R"({"vocab_size": 3})");
  }
  const TestModel merged =
      Merge(Parse("merge_method: task_arithmetic\nbase_model: base\ntokenizer_source: union\n"
                  "slices:\n  - base_model: own\n    sources:\n"
                  "      - {model: own, layer_range: [0, 1]}\n"
                  "      - {model: a, layer_range: [0, 1], parameters: {weight: 0.5}}\n"
                  "      - {model: base, layer_range: [0, 1], parameters: {weight: 0}}\n"));
  // p q x | y
  ExpectNear(Row(merged, 0), Mean({Row(own, 0), Row(a, 2)}));
  ExpectNear(Row(merged, 1), Row(own, 1));                        // for a, too
  const std::vector<double> x = Mean({Row(a, 0), Row(base, 2)});  // for the slice's base
  ExpectNear(Row(merged, 2), Mean({x, Row(a, 0)}));
  ExpectNear(Row(merged, 3), Mean({Row(own, 2), Row(a, 1)}));
}

TEST_F(TokenizersTest, TokensTakeTheRowsThatTheRecipeNames) {
  const TestModel a = Write("a", {"p", "q", "r"}), b = Write("b", {"q", "p", "r"});
  const TestModel merged = Merge(Linear({"a", "b"}, R"(
tokenizer:
  source: union
  tokens:
    p: {source: b, force: true}
    q: {source: {kind: zero}, force: true}
    r: {source: a}
    new: {source: {kind: model_token, model: b, token: r}}
    other: {source: {kind: model_token, model: a, token_id: 1}}
)"));
  ExpectNear(Row(merged, 0), Row(b, 1));
  EXPECT_EQ(Row(merged, 1), std::vector<double>(columns_, 0.0));
  ExpectNear(Row(merged, 2), Mean({Row(a, 2), Row(b, 2)}));  // without force nothing changes
  ExpectNear(Row(merged, 3), Row(b, 2));
  ExpectNear(Row(merged, 4), Row(a, 1));
}

TEST_F(TokenizersTest, SameBytesForAnyThreadsAndBudget) {
  columns_ = 96;
  std::vector<std::string> tokens[3];
  for (int i = 0; i < 2000; ++i) {
    const std::string token = absl::StrCat("t", i);
    if (i % 3 != 0) tokens[0].push_back(token);
    if (i % 5 != 0) tokens[1].insert(tokens[1].begin(), token);
    if (i % 7 != 0) tokens[2].push_back(token);
  }
  std::shuffle(tokens[2].begin(), tokens[2].end(), random_);
  for (int k = 0; k < 3; ++k) Write(absl::StrCat("m", k), tokens[k]);
  const std::string tail =
      "tokenizer:\n  source: union\n  pad_to_multiple_of: 64\n  tokens:\n"
      "    t4: {source: {kind: model_token, model: m1, token: t8}, force: true}\n";
  const Recipe recipes[] = {Linear({"m0", "m1", "m2"}, tail),
                            Parse("merge_method: ties\nbase_model: m0\nmodels:\n"
                                  "  - {model: m1, parameters: {weight: 1, density: 0.5}}\n"
                                  "  - {model: m2, parameters: {weight: 1, density: 0.3}}\n" +
                                  tail)};
  for (const Recipe& recipe : recipes) {
    std::map<std::string, std::string> first;
    const uint64_t smallest = PlanOf(recipe)->memory.smallest;
    for (const auto& [threads, chunk, budget] :
         {std::tuple<int, uint64_t, uint64_t>{1, 0, 0}, {4, 64 * kKiB, 0}, {3, 0, smallest}}) {
      EngineOptions options;
      options.threads = threads;
      options.chunk_size = chunk;
      if (budget > 0) options.memory_budget = budget;
      Run(recipe, options);
      const std::map<std::string, std::string> files = ModelFiles(Path("out"));
      fs::remove_all(Path("out"));
      if (first.empty()) first = files;
      EXPECT_TRUE(files == first) << threads << " " << chunk << " " << budget;
    }
  }
}

TEST_F(TokenizersTest, RowsOfAdaptersAreGathered) {
  const TestModel base = Write("base", {"p", "q", "r"});
  Write("m", {"r", "n", "p"});
  const TestModel factors = {RandomTensor("base_model.model.model.embed_tokens.lora_embedding_A",
                                          DType::kF32, {2, 3}, random_),
                             RandomTensor("base_model.model.model.embed_tokens.lora_embedding_B",
                                          DType::kF32, {columns_, 2}, random_)};
  WriteModel(Path("lora"), factors);
  fs::rename(Path("lora/model.safetensors"), Path("lora/adapter_model.safetensors"));
  WriteFile(Path("lora/adapter_config.json"),
            R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":["embed_tokens"]})");
  const TestModel merged =
      Merge(Linear({"m", "base+lora"}, "dtype: float32\ntokenizer_source: union\n"));
  // r n p | q; of the adapter's model: 2 - 0 1
  const std::vector<double> a = factors[0].values(), b = factors[1].values();
  const auto changed = [&](int64_t row) {
    std::vector<double> result = Row(base, row, kEmbedding);
    for (int64_t j = 0; j < columns_; ++j) {
      for (int64_t r = 0; r < 2; ++r) result[j] += a[r * 3 + row] * b[j * 2 + r];
    }
    return result;
  };
  const TestModel m = ReadModel(Path("m"));
  ExpectNear(Row(merged, 0, kEmbedding), Mean({Row(m, 0, kEmbedding), changed(2)}));
  ExpectNear(Row(merged, 1, kEmbedding), Row(m, 1, kEmbedding));
  ExpectNear(Row(merged, 2, kEmbedding), Mean({Row(m, 2, kEmbedding), changed(0)}));
  ExpectNear(Row(merged, 3, kEmbedding), changed(1));
}

TEST_F(TokenizersTest, PaddingIsFiniteWhereRowsAre) {
  TestModel a = Write("a", {"p", "q", "r"});
  std::vector<double> head = Find(a, kHead).values();
  head[0] = std::numeric_limits<double>::quiet_NaN();
  a[0] = MakeTensor(kHead, DType::kF32, {3, columns_}, head);
  WriteModel(Path("a"), a, R"({"vocab_size": 3})");
  const TestModel merged =
      Merge(Linear({"a"}, "tokenizer: {source: base, pad_to_multiple_of: 4}\n"));
  EXPECT_TRUE(std::isnan(Row(merged, 0)[0]));
  EXPECT_NEAR(Row(merged, 3)[0], (head[columns_] + head[2 * columns_]) / 2, 1e-6);
}

TEST_F(TokenizersTest, FilesFollowTheVocabulary) {
  Write("a", {"p", "q"});
  Write("b", {"q", "z"}, Added("<pad>", 2), 3);
  WriteFile(Path("a/tokenizer_config.json"), R"({"added_tokens_decoder": {}, "unk_token": "p"})");
  WriteFile(Path("a/vocab.json"), "{}");
  WriteFile(Path("a/generation_config.json"), "{}");
  Run(Linear({"a", "b"}, "tokenizer_source: union\nchat_template: chatml\n"));
  const auto vocabulary = Vocabulary::Parse(OutputFile("tokenizer.json"));
  ASSERT_THAT(vocabulary, IsOk());
  EXPECT_EQ(vocabulary->Find("z"), 2);
  EXPECT_EQ(vocabulary->Find("<pad>"), 3);
  EXPECT_TRUE(vocabulary->FindAdded("<pad>")->special);
  EXPECT_FALSE(vocabulary->FindAdded("z")->special);
  const auto config = nlohmann::json::parse(OutputFile("tokenizer_config.json"));
  EXPECT_EQ(config["unk_token"], "p");
  EXPECT_EQ(config["added_tokens_decoder"]["3"]["content"], "<pad>");
  EXPECT_THAT(config["chat_template"].get<std::string>(), HasSubstr("<|im_start|>"));
  const auto files = FilesBelow(Path("out"));
  EXPECT_FALSE(files.contains("vocab.json"));
  EXPECT_TRUE(files.contains("generation_config.json"));
  EXPECT_EQ(nlohmann::json::parse(OutputFile("config.json"))["vocab_size"], 4);
}

TEST_F(TokenizersTest, NewTokensKeepTheirIdsWhereTheVocabularyHasHoles) {
  Write("a", {"p", "q", "1", "2", "3"});
  WriteFile(Path("a/tokenizer.json"),
            R"({"added_tokens":[],"model":{"type":"WordLevel","vocab":{"p":0,"q":4}}})");
  Write("b", {"q", "z"}, Added("<pad>", 2), 3);
  Run(Linear({"a", "b"}, "tokenizer_source: union\n"));
  const auto json = nlohmann::json::parse(OutputFile("tokenizer.json"));
  EXPECT_EQ(json["model"]["vocab"], nlohmann::json({{"p", 0}, {"q", 4}, {"z", 5}, {"<pad>", 6}}));
  EXPECT_EQ(json["added_tokens"].size(), 2u);
}

TEST_F(TokenizersTest, AnotherModelGivesItsFiles) {
  Write("a", {"p", "q"});
  WriteFile(Path("a/vocab.json"), "of a");
  WriteFile(Path("a/LICENSE"), "of a");
  WriteFile(Path("t/tokenizer.json"), TokenizerText({"q", "r", "p"}));
  WriteFile(Path("t/vocab.json"), "of t");
  WriteFile(Path("t/LICENSE"), "of t");
  const Recipe recipe = Linear({"a"}, "tokenizer_source: t\n");
  Run(recipe);
  EXPECT_EQ(OutputFile("tokenizer.json"), TokenizerText({"q", "r", "p"}));
  EXPECT_EQ(OutputFile("vocab.json"), "of t");
  EXPECT_EQ(OutputFile("LICENSE"), "of a");
  const TestModel a = ReadModel(Path("a")), merged = ReadModel(Path("out"));
  ExpectNear(Row(merged, 0), Row(a, 1));
  EXPECT_EQ(Row(merged, 1), std::vector<double>(columns_, 0.0));  // in no model
  const auto plan = PlanOf(recipe);
  EXPECT_TRUE(std::any_of(plan->warnings.begin(), plan->warnings.end(), [](const auto& warning) {
    return absl::StrContains(warning.message, "the first is 'r'");
  }));
}

TEST_F(TokenizersTest, TheMostFrequentTemplateWins) {
  for (const char* name : {"a", "b", "c"}) Write(name, {"p"});
  WriteFile(Path("a/chat_template.jinja"), "{{ 'one' }}");
  WriteFile(Path("b/tokenizer_config.json"), R"({"chat_template": "{{ 'two' }}\n"})");
  WriteFile(Path("c/chat_template.jinja"), "{{ 'two' }}");
  Run(Linear({"a", "b", "c"}, "chat_template: auto\n"));
  EXPECT_EQ(OutputFile("chat_template.jinja"), "{{ 'two' }}");
}

TEST_F(TokenizersTest, SaysWhatIsWrong) {
  Write("a", {"p", "q"});
  Write("b", {"p", "q", "r"}, "", 2);
  WriteFile(Path("b/config.json"), "{}");
  ExpectFault(Linear({"a", "b"}, "tokenizer_source: union\n"), Reason::kTensorMismatch,
              {"tensor model.embed_tokens.weight of b", "'r' the id 2", "2 rows"});
  const std::string token = "tokenizer: {tokens: {p: {force: true, source: ";
  ExpectFault(Linear({"a"}, token + "{kind: model_token, model: a, token: x}}}}\n"),
              Reason::kOutOfRange, {"tokenizer.tokens.p.source", "a has no token 'x'"});
  ExpectFault(Linear({"a"}, token + "{kind: model_token, model: a, token_id: 2}}}}\n"),
              Reason::kOutOfRange, {"token id 2 is beyond the 2 rows", "of a"});
  ExpectFault(Linear({"a"}, token + "b}}}\n"), Reason::kOutOfRange,
              {"none of the models that are merged"});
  ExpectFault(Linear({"a"}, "tokenizer_source: nowhere\n"), Reason::kInputNotFound,
              {"nowhere", "no tokenizer.json"});
  WriteFile(Path("a/tokenizer.json"), R"({"model":{"vocab":{"p":-1}}})");
  ExpectFault(Linear({"a"}, "tokenizer_source: base\n"), Reason::kInputCorrupt,
              {"a/tokenizer.json", "'p'"});
  WriteFile(Path("a/tokenizer.json"), TokenizerText({"p", "q", "r"}));
  ExpectFault(Linear({"a"}, "tokenizer_source: base\n"), Reason::kUnsupported,
              {"ids from 2 on", "WordLevel"});
  fs::remove(Path("a/tokenizer.json"));
  ExpectFault(Linear({"a"}, "tokenizer_source: base\n"), Reason::kInputNotFound,
              {"no tokenizer.json"});
  WriteModel(Path("c"), {RandomTensor("w", DType::kF32, {2, 3}, random_)});
  WriteFile(Path("c/tokenizer.json"), TokenizerText({"p", "q"}));
  ExpectFault(Linear({"c"}, "tokenizer_source: base\n"), Reason::kUnsupported,
              {"no tensor of", "embedding"});
}

TEST_F(TokenizersTest, AFaultOfASecondTensorIsToldToo) {
  WriteModel(Path("a"), {RandomTensor(kHead, DType::kF32, {3, columns_}, random_),
                         RandomTensor(kEmbedding, DType::kF32, {2, columns_}, random_)});
  WriteFile(Path("a/tokenizer.json"), TokenizerText({"p", "q"}));
  ExpectFault(Linear({"a"},
                     "tokenizer: {tokens: {p: {force: true, source: {kind: model_token, "
                     "model: a, token_id: 2}}}}\n"),
              Reason::kOutOfRange, {"token id 2 is beyond the 2 rows"});
}

TEST_F(TokenizersTest, ATokenizerThatIsMissingIsTheFirstModels) {
  const TestModel a = Write("a", {"p", "q"}), b = Write("b", {"p", "q"});
  fs::remove(Path("b/tokenizer.json"));
  const TestModel merged = Merge(Linear({"a", "b"}, "tokenizer_source: union\n"));
  ExpectNear(Row(merged, 1), Mean({Row(a, 1), Row(b, 1)}));
}

TEST_F(TokenizersTest, RemoteInputsGiveTheSameBytes) {
  columns_ = 64;
  std::vector<std::string> tokens;
  for (int i = 0; i < 300; ++i) tokens.push_back(absl::StrCat("t", i));
  Write("a", tokens);
  std::shuffle(tokens.begin(), tokens.end(), random_);
  tokens.push_back("new");
  Write("b", tokens);
  Recipe recipe = Linear({"a", "b"}, "tokenizer: {pad_to_multiple_of: 64}\n");
  Run(recipe);
  const auto local = ModelFiles(Path("out"));
  fs::remove_all(Path("out"));
  const std::unique_ptr<Backend> backend = MakeBackend("s3");
  ASSERT_NE(backend, nullptr);
  for (RecipeModel& model : recipe.models) {
    for (const auto& [name, bytes] : FilesBelow(Path(model.name))) {
      const Uri uri = backend->root().Child(model.name).Child(name);
      ASSERT_THAT(backend->store().Put(uri, bytes, {}, Condition::kNone, {}), IsOk());
    }
    model.uri = backend->root().Child(model.name);
  }
  Storage storage(local_.get(), &backend->store());
  ASSERT_THAT(TryRun(recipe, storage), IsOk());
  EXPECT_TRUE(ModelFiles(Path("out")) == local);
}

}  // namespace
}  // namespace orthomerge
