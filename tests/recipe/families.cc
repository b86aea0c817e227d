#include "families.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

void AddNames(const std::string& pattern, std::vector<std::string>* names) {
  const size_t open = pattern.find('{');
  if (open == std::string::npos) {
    names->push_back(pattern);
    return;
  }
  const size_t close = pattern.find('}', open);
  const int count = std::atoi(pattern.substr(open + 1, close - open - 1).c_str());
  for (int i = 0; i < count; ++i) {
    AddNames(absl::StrCat(pattern.substr(0, open), i, pattern.substr(close + 1)), names);
  }
}

std::string Count(int n) { return absl::StrCat("{", n, "}"); }

}  // namespace

std::vector<std::string> NamesOf(const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  for (const std::string& pattern : patterns) AddNames(pattern, &names);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> LlamaNames(int layers) {
  const std::string x = absl::StrCat("model.layers.", Count(layers), ".");
  return NamesOf({"model.embed_tokens.weight", x + "self_attn.q_proj.weight",
                  x + "self_attn.o_proj.weight", x + "mlp.down_proj.weight",
                  x + "input_layernorm.weight", "model.norm.weight", "lm_head.weight"});
}

std::vector<std::string> MixtralNames(int layers, int experts) {
  const std::string x = absl::StrCat("model.layers.", Count(layers), ".");
  const std::string e = absl::StrCat(x, "block_sparse_moe.experts.", Count(experts), ".");
  return NamesOf({"model.embed_tokens.weight", x + "self_attn.q_proj.weight",
                  x + "block_sparse_moe.gate.weight", e + "w1.weight", e + "w2.weight",
                  e + "w3.weight", x + "input_layernorm.weight", "model.norm.weight",
                  "lm_head.weight"});
}

std::vector<std::string> DeepseekNames(int dense, int layers, int experts) {
  std::vector<std::string> patterns = {
      "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
      absl::StrCat("model.layers.", Count(layers), ".self_attn.q_a_proj.weight")};
  for (int layer = 0; layer < layers; ++layer) {
    const std::string mlp = absl::StrCat("model.layers.", layer, ".mlp.");
    if (layer < dense) {
      patterns.push_back(mlp + "down_proj.weight");
    } else {
      patterns.push_back(mlp + "gate.e_score_correction_bias");
      patterns.push_back(mlp + "shared_experts.down_proj.weight");
      patterns.push_back(mlp + "experts." + Count(experts) + ".down_proj.weight");
    }
  }
  return NamesOf(patterns);
}

std::vector<std::string> T5Names(int layers) {
  const std::string e = absl::StrCat("encoder.block.", Count(layers), ".layer.");
  const std::string d = absl::StrCat("decoder.block.", Count(layers), ".layer.");
  return NamesOf({"shared.weight", e + "0.SelfAttention.q.weight", e + "{2}.layer_norm.weight",
                  e + "1.DenseReluDense.wo.weight", "encoder.final_layer_norm.weight",
                  d + "0.SelfAttention.q.weight", d + "1.EncDecAttention.q.weight",
                  d + "{3}.layer_norm.weight", "decoder.final_layer_norm.weight",
                  "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                  "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                  "lm_head.weight"});
}

std::vector<std::string> VitNames(int layers) {
  const std::string x = absl::StrCat("vit.encoder.layer.", Count(layers), ".");
  return NamesOf({"vit.embeddings.cls_token", "vit.embeddings.position_embeddings",
                  "vit.embeddings.patch_embeddings.projection.weight",
                  x + "attention.attention.query.weight", x + "output.dense.bias",
                  "vit.layernorm.weight", "classifier.weight"});
}

std::vector<std::string> ClipNames(int text_layers, int vision_layers) {
  return NamesOf(
      {absl::StrCat("text_model.encoder.layers.", Count(text_layers), ".mlp.fc1.weight"),
       absl::StrCat("vision_model.encoder.layers.", Count(vision_layers), ".mlp.fc1.weight"),
       "text_model.embeddings.token_embedding.weight", "vision_model.embeddings.class_embedding",
       "vision_model.pre_layrnorm.weight", "vision_model.post_layernorm.weight",
       "text_projection.weight", "visual_projection.weight", "logit_scale"});
}

std::vector<std::string> MambaNames(int layers) {
  const std::string x = absl::StrCat("backbone.layers.", Count(layers), ".");
  return NamesOf({"backbone.embeddings.weight", x + "mixer.A_log", x + "mixer.conv1d.weight",
                  x + "norm.weight", "backbone.norm_f.weight"});
}

std::vector<std::string> LlavaNames(int text_layers, int vision_layers) {
  return NamesOf(
      {absl::StrCat("language_model.model.layers.", Count(text_layers), ".mlp.up_proj.weight"),
       absl::StrCat("vision_tower.vision_model.encoder.layers.", Count(vision_layers),
                    ".mlp.fc1.weight"),
       "language_model.model.embed_tokens.weight", "language_model.model.norm.weight",
       "vision_tower.vision_model.embeddings.class_embedding",
       "multi_modal_projector.linear_1.weight", "lm_head.weight"});
}

}  // namespace orthomerge
