// Names of tensors as published models have them, for tests.
#pragma once

#include <string>
#include <vector>

namespace orthomerge {

// Every "{n}" stands for 0 to n-1: "layers.{2}.w.{3}" gives six names. Sorted.
std::vector<std::string> NamesOf(const std::vector<std::string>& patterns);

std::vector<std::string> LlamaNames(int layers);
std::vector<std::string> MixtralNames(int layers, int experts);
std::vector<std::string> DeepseekNames(int dense, int layers, int experts);
std::vector<std::string> T5Names(int layers);
std::vector<std::string> VitNames(int layers);
std::vector<std::string> ClipNames(int text_layers, int vision_layers);
std::vector<std::string> MambaNames(int layers);
std::vector<std::string> LlavaNames(int text_layers, int vision_layers);

}  // namespace orthomerge
