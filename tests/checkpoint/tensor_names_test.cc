#include "core/checkpoint/tensor_names.h"

#include <gtest/gtest.h>

namespace orthomerge {
namespace {

TEST(HeadName, KnowsOutputProjections) {
  for (const char* name :
       {"lm_head.weight", "language_model.lm_head.weight", "output.weight", "embed_out.weight",
        "x.embed_out.weight", "proj_out.weight", "cls.predictions.decoder.weight"}) {
    EXPECT_TRUE(IsHeadName(name)) << name;
  }
  for (const char* name :
       {"", "lm_head.bias", "lm_head", "my_lm_head.weight", "layers.0.attention.output.weight",
        "blocks.0.proj_out.weight", "model.embed_tokens.weight"}) {
    EXPECT_FALSE(IsHeadName(name)) << name;
  }
}

TEST(Buffer, IsKnownByNameAndAMaskByItsShape) {
  const std::vector<int64_t> mask = {1, 1, 4, 4}, vector = {4};
  for (const char* name : {"inv_freq", "model.rotary_emb.inv_freq", "h.0.attn.masked_bias",
                           "embeddings.position_ids"}) {
    EXPECT_TRUE(IsBuffer(name, vector)) << name;
  }
  for (const char* name : {"h.0.attn.bias", "gpt_neox.layers.0.attention.bias"}) {
    EXPECT_TRUE(IsBuffer(name, mask)) << name;
    EXPECT_FALSE(IsBuffer(name, vector)) << name;
  }
  EXPECT_FALSE(IsBuffer("h.0.attn.weight", mask));
  EXPECT_FALSE(IsBuffer("my_inv_freq", vector));
}

}  // namespace
}  // namespace orthomerge
