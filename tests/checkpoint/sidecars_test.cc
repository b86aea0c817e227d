#include "core/base/bytes.h"
#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

class SidecarTest : public CheckpointTest {
 protected:
  absl::StatusOr<std::vector<Sidecar>> Find(const std::string& uri) {
    const auto checkpoint = Open(uri);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return FindSidecars(storage_, *checkpoint, CallOptions());
  }

  std::vector<std::string> Names(const std::string& uri) {
    std::vector<std::string> names;
    const auto sidecars = Find(uri);
    EXPECT_TRUE(sidecars.ok()) << sidecars.status();
    if (sidecars.ok()) {
      for (const Sidecar& sidecar : *sidecars) names.push_back(sidecar.name);
    }
    return names;
  }
};

TEST_F(SidecarTest, WhatTravelsAndWhatDoesNot) {
  const std::vector<std::string> travel = {"LICENSE",
                                           "LICENSE.txt",
                                           "NOTICE.md",
                                           "USE_POLICY.md",
                                           "added_tokens.json",
                                           "additional_chat_templates/rag.jinja",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "generation_config.json",
                                           "image_processor_config.json",
                                           "merges.txt",
                                           "preprocessor_config.json",
                                           "processor_config.json",
                                           "qwen.tiktoken",
                                           "sentencepiece.bpe.model",
                                           "special_tokens_map.json",
                                           "spiece.model",
                                           "tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer_config.json",
                                           "video_preprocessor_config.json",
                                           "vocab.json",
                                           "vocab.txt"};
  const std::vector<std::string> stay = {"README.md",
                                         "training_args.bin",
                                         "optimizer.pt",
                                         "scheduler.pt",
                                         "rng_state.pth",
                                         "model.gguf",
                                         "original/consolidated.00.pth",
                                         "original/tokenizer.model",
                                         "modeling_x.py",
                                         "tokenizer.py",
                                         "tokenizer.safetensors",
                                         ".gitattributes",
                                         "config.json",
                                         "word2vec.model",
                                         "trainer_state.json",
                                         "licensee",
                                         "tokenizer/x.json",
                                         "additional_chat_templates/.hidden",
                                         "additional_chat_templates/x.py"};
  for (const std::string folder : {"/m", "s3://bucket/m"}) {
    for (const auto& names : {travel, stay}) {
      for (const std::string& name : names) Add(folder + "/" + name, name);
    }
    Add(folder + "/model.safetensors", FileWith({{"a", 1}}));
    EXPECT_EQ(Names(folder), travel);
  }
}

TEST_F(SidecarTest, FilesArePinned) {
  Add("/m/model.safetensors", FileWith({{"a", 1}}));
  Add("/m/merges.txt", "12345");
  const auto sidecars = Find("/m/model.safetensors");
  ASSERT_TRUE(sidecars.ok()) << sidecars.status();
  ASSERT_EQ(sidecars->size(), 1u);
  EXPECT_EQ((*sidecars)[0].file.uri, At("/m/merges.txt"));
  EXPECT_EQ((*sidecars)[0].file.size, 5u);
  EXPECT_FALSE((*sidecars)[0].file.etag.empty());
}

TEST_F(SidecarTest, NoneForALoneFileOfAnotherName) {
  Add("/m/odd.safetensors", FileWith({{"a", 1}}));
  Add("/m/tokenizer.json", "{}");
  EXPECT_TRUE(Names("/m/odd.safetensors").empty());
  EXPECT_THAT(Names("/m"), ::testing::ElementsAre("tokenizer.json"));
}

TEST_F(SidecarTest, RefusesALargeOne) {
  Add("/m/model.safetensors", FileWith({{"a", 1}}));
  Add("/m/tokenizer.json", std::string(64 * kMiB + 1, ' '));
  ExpectError(Find("/m").status(), Reason::kInputCorrupt, {"/m/tokenizer.json", "too large"});
}

TEST_F(SidecarTest, PassesOnErrors) {
  Add("/m/model.safetensors", FileWith({{"a", 1}}));
  Add("/m/tokenizer.json", "{}");
  store_.faults[At("/m/tokenizer.json")] = MakeError(Reason::kPermissionDenied, "not yours");
  ExpectError(Find("/m").status(), Reason::kPermissionDenied, {"not yours"});
}

}  // namespace
}  // namespace orthomerge
