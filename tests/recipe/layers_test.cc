#include "core/recipe/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/recipe/modules.h"
#include "families.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// "model.layers.*32" per stack.
std::vector<std::string> StacksOf(const std::vector<std::string>& names) {
  std::vector<std::string> texts;
  const ModelLayers layers(names);
  for (const LayerStack& stack : layers.stacks()) {
    texts.push_back(absl::StrCat(stack.prefix, "*", stack.layers));
  }
  return texts;
}

// What slices mean, or "".
std::string MainOf(const std::vector<std::string>& names) {
  const ModelLayers layers(names);
  return layers.main_stack() < 0 ? "" : layers.stacks()[layers.main_stack()].prefix;
}

TEST(LayersTest, FindsTheStacksOfPublishedFamilies) {
  EXPECT_THAT(StacksOf(LlamaNames(32)), ElementsAre("model.layers.*32"));
  EXPECT_THAT(StacksOf(MixtralNames(4, 16)), ElementsAre("model.layers.*4"));
  EXPECT_THAT(StacksOf(DeepseekNames(3, 7, 16)), ElementsAre("model.layers.*7"));
  EXPECT_THAT(StacksOf(VitNames(12)), ElementsAre("vit.encoder.layer.*12"));
  EXPECT_THAT(StacksOf(MambaNames(5)), ElementsAre("backbone.layers.*5"));
  EXPECT_THAT(StacksOf(T5Names(3)), ElementsAre("decoder.block.*3", "encoder.block.*3"));
  EXPECT_THAT(StacksOf(ClipNames(3, 4)),
              ElementsAre("text_model.encoder.layers.*3", "vision_model.encoder.layers.*4"));
  EXPECT_THAT(
      StacksOf(LlavaNames(2, 3)),
      ElementsAre("language_model.model.layers.*2", "vision_tower.vision_model.encoder.layers.*3"));
  EXPECT_THAT(StacksOf(NamesOf({"wte.weight", "h.{12}.attn.c_attn.weight", "ln_f.weight"})),
              ElementsAre("h.*12"));
  EXPECT_THAT(
      StacksOf(NamesOf({"bert.encoder.layer.{6}.output.dense.weight", "cls.predictions.bias"})),
      ElementsAre("bert.encoder.layer.*6"));
  EXPECT_THAT(StacksOf(NamesOf({"visual.blocks.{8}.attn.qkv.weight", "visual.merger.mlp.0.weight",
                                "visual.merger.mlp.2.weight", "model.layers.{4}.mlp.w.weight"})),
              ElementsAre("model.layers.*4", "visual.blocks.*8"));
  EXPECT_THAT(StacksOf(NamesOf({"visual.transformer.resblocks.{2}.ln_1.weight",
                                "transformer.resblocks.{3}.ln_1.weight"})),
              ElementsAre("transformer.resblocks.*3", "visual.transformer.resblocks.*2"));
}

TEST(LayersTest, OneLayerIsAStackIfItsWordIsUsual) {
  EXPECT_THAT(StacksOf({"model.layers.0.w"}), ElementsAre("model.layers.*1"));
  EXPECT_THAT(StacksOf({"head.0.w"}), IsEmpty());
}

TEST(LayersTest, UnusualWordsNeedAllNumbers) {
  EXPECT_THAT(StacksOf(NamesOf({"towers.{3}.w"})), ElementsAre("towers.*3"));
  EXPECT_THAT(StacksOf({"classifier.0.weight", "classifier.2.weight"}), IsEmpty());
  EXPECT_THAT(StacksOf({"model.layers.1.w", "model.layers.5.w"}), ElementsAre("model.layers.*6"));
}

TEST(LayersTest, WhatStandsSideBySideIsNoStack) {
  EXPECT_THAT(StacksOf(NamesOf({"experts.{4}.w1", "model.heads.{2}.w"})), IsEmpty());
}

TEST(LayersTest, OddNumbersAreParts) {
  EXPECT_THAT(StacksOf({"layers.00.w", "layers.-1.w", "layers.1234567.w", "layers.1x.w"}),
              IsEmpty());
  EXPECT_THAT(StacksOf({"", ".", "..0", "0", "1", "a.0"}), ElementsAre("*2"));
}

TEST(LayersTest, PlacesFollowTheNames) {
  const std::vector<std::string> names = {"model.layers.10", "model.layers.10.w.3.x",
                                          "model.norm.weight"};
  const ModelLayers layers(names);
  EXPECT_EQ(layers.places()[0].layer, 10);
  EXPECT_EQ(names[0].substr(layers.places()[0].suffix), "");
  EXPECT_EQ(names[1].substr(layers.places()[1].suffix), ".w.3.x");
  EXPECT_EQ(layers.places()[2].stack, -1);
  EXPECT_EQ(layers.Find("model.layers.")->layers, 11);
  EXPECT_EQ(layers.Find("layers."), nullptr);
}

TEST(LayersTest, SlicesMeanTheOnlyStack) {
  EXPECT_EQ(MainOf(LlamaNames(2)), "model.layers.");
  EXPECT_EQ(MainOf(NamesOf({"model.layers.{2}.w", "projector.{2}.w"})), "model.layers.");
  EXPECT_EQ(MainOf(NamesOf({"towers.{3}.w"})), "towers.");
  EXPECT_EQ(MainOf(T5Names(2)), "");
  EXPECT_EQ(MainOf(NamesOf({"towers.{3}.w", "projector.{2}.w"})), "");
  EXPECT_EQ(MainOf({"w"}), "");
}

TEST(LayersTest, DepthRunsFromTheFirstToTheLast) {
  EXPECT_EQ(LayerDepth(0, 5), 0);
  EXPECT_EQ(LayerDepth(1, 5), 0.25);
  EXPECT_EQ(LayerDepth(4, 5), 1);
  EXPECT_EQ(LayerDepth(0, 1), 1);
}

TEST(LayersTest, EmbeddingsComeBeforeAndHeadsAfter) {
  for (const char* name :
       {"model.embed_tokens.weight", "wte.weight", "transformer.wpe.weight",
        "vit.embeddings.cls_token", "bert.embeddings.LayerNorm.weight",
        "vision_model.pre_layrnorm.weight", "model.tok_embeddings.weight", "shared_emb.weight",
        "visual.patch_embed.proj.weight", "rotary_pos_emb.inv_freq"}) {
    EXPECT_TRUE(ComesBeforeLayers(name)) << name;
  }
  for (const char* name :
       {"model.norm.weight", "lm_head.weight", "ln_f.bias", "embed_out.weight", "norm_f.weight",
        "classifier.bias", "vision_model.post_layernorm.weight", "score.weight", "output.weight",
        "cls.predictions.bias", "text_projection.weight"}) {
    EXPECT_FALSE(ComesBeforeLayers(name)) << name;
  }
}

TEST(ModulesTest, GoByThePartsOfNames) {
  const std::vector<std::string> llava = {"text_decoder", "vision_tower", "multi_modal_projector"};
  EXPECT_EQ(ModuleOf(llava, "language_model.model.layers.0.w"), 0);
  EXPECT_EQ(ModuleOf(llava, "model.language_model.layers.0.w"), 0);
  EXPECT_EQ(ModuleOf(llava, "vision_tower.vision_model.encoder.layers.0.w"), 1);
  EXPECT_EQ(ModuleOf(llava, "visual.blocks.0.w"), 1);
  EXPECT_EQ(ModuleOf(llava, "multi_modal_projector.linear_1.weight"), 2);
  EXPECT_EQ(ModuleOf(llava, "visual.merger.mlp.0.weight"), 2);
  EXPECT_EQ(ModuleOf(llava, "model.visual.deepstack_merger_list.1.norm.bias"), 2);
  EXPECT_EQ(ModuleOf(std::vector<std::string>{"text_decoder", "vision_tower"},
                     "visual.merger.mlp.0.weight"),
            1);
  EXPECT_EQ(ModuleOf(llava, "lm_head.weight"), 0);
  const std::vector<std::string> t5 = {"encoder", "decoder"};
  EXPECT_EQ(ModuleOf(t5, "encoder.block.0.w"), 0);
  EXPECT_EQ(ModuleOf(t5, "decoder.block.0.w"), 1);
  EXPECT_EQ(ModuleOf(t5, "shared.weight"), 1);
  EXPECT_EQ(ModuleOf(std::vector<std::string>{"encoder"}, "shared.weight"), -1);
}

TEST(ModulesTest, EveryNameOfATextDecoderTakesWhatIsLeft) {
  for (const char* name :
       {"text_decoder", "language_model", "text_model", "llm", "language_tower"}) {
    EXPECT_EQ(ModuleOf(std::vector<std::string>{"visual", name}, "lm_head.weight"), 1) << name;
  }
}

TEST(PartOf, TellsTextVisionEncoderAndDecoder) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(PartOf(Names{""}, 0), ModelPart::kText);
  EXPECT_EQ(PartOf(Names{"default"}, 0), ModelPart::kText);
  EXPECT_EQ(PartOf(Names{"transformer"}, 0), ModelPart::kText);  // one that is alone
  const Names qwen = {"visual", "multi_modal_projector", "text_decoder", "audio_tower"};
  EXPECT_EQ(PartOf(qwen, 0), ModelPart::kVision);
  EXPECT_EQ(PartOf(qwen, 1), ModelPart::kOther);
  EXPECT_EQ(PartOf(qwen, 2), ModelPart::kText);
  EXPECT_EQ(PartOf(qwen, 3), ModelPart::kOther);
  EXPECT_EQ(PartOf(Names{"vision_model", "llm"}, 1), ModelPart::kText);
  EXPECT_EQ(PartOf(Names{"decoder", "vision_tower"}, 0), ModelPart::kText);
  EXPECT_EQ(PartOf(Names{"language_tower", "vision_tower"}, 0), ModelPart::kText);
  const Names t5 = {"decoder", "encoder", "shared"};
  EXPECT_EQ(PartOf(t5, 0), ModelPart::kDecoder);
  EXPECT_EQ(PartOf(t5, 1), ModelPart::kEncoder);
  EXPECT_EQ(PartOf(t5, 2), ModelPart::kOther);
  // The text's number may be the encoder's.
  EXPECT_EQ(PartOf(Names{"encoder", "text_decoder"}, 1), ModelPart::kDecoder);
}

TEST(PartOf, NoTwoModulesAreTheSamePart) {
  using Names = std::vector<std::string>;
  const auto parts = [](const Names& names) {
    std::vector<ModelPart> result;
    for (size_t i = 0; i < names.size(); ++i) result.push_back(PartOf(names, i));
    return result;
  };
  using enum ModelPart;
  EXPECT_THAT(parts({"decoder", "language_model"}), ElementsAre(kOther, kText));
  EXPECT_THAT(parts({"decoder", "llm", "encoder"}), ElementsAre(kOther, kDecoder, kEncoder));
  EXPECT_THAT(parts({"text", "llm", "vision", "visual", "vision_model"}),
              ElementsAre(kOther, kText, kOther, kVision, kOther));
}

}  // namespace
}  // namespace orthomerge
