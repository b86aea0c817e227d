// Output files to the byte, their parts, and the tasks.
#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/engine/plan.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

struct Item {
  int tensor = 0;  // or kScalar
  int sink = 0;
  DType dtype = DType::kF32;
  bool bits = false;
  uint64_t bytes = 0;
};

// What the item is in the file: one tensor, or two neighbours.
std::vector<TensorLayout> LayoutsOf(const Plan& plan, const std::vector<ScalarSpec>& scalars,
                                    const Item& item) {
  if (item.tensor == kScalar) return {{scalars[item.sink].name, item.dtype, {}}};
  const PlanTensor& planned = plan.tensors[item.tensor];
  if (planned.factors.has_value()) {
    const FactorPair& pair = *planned.factors;
    return {{pair.a_name, item.dtype, {pair.rank, pair.in}},
            {pair.b_name, item.dtype, {pair.out, pair.rank}}};
  }
  const OutputTensor& tensor = planned.tensor;
  const std::string& name = planned.written_name.empty() ? tensor.name : planned.written_name;
  if (!item.bits) return {{name, item.dtype, tensor.shape}};
  return {{name, item.dtype, {static_cast<int64_t>(item.bytes)}}};
}

std::vector<std::vector<Item>> Shards(const std::vector<Item>& items, uint64_t max_size) {
  std::vector<std::vector<Item>> shards(1);
  uint64_t size = 0;
  for (const Item& item : items) {
    if (!shards.back().empty() && size + item.bytes > max_size) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(item);
    size += item.bytes;
  }
  return shards;
}

// The first allowed place at or after `place`, among tensor boundaries and the program's granules.
uint64_t AllowedPlace(const Plan& plan, const PlanFile& file, uint64_t place) {
  const auto next = std::upper_bound(
      file.placements.begin(), file.placements.end(), place,
      [](uint64_t value, const Placement& placement) { return value < placement.end; });
  if (next == file.placements.end()) return file.size;
  if (place <= next->begin) return next->begin;
  if (next->tensor == kScalar) return next->end;
  const PlanTensor& tensor = plan.tensors[next->tensor];
  // Any byte of a mask is the start of 8 elements.
  if (tensor.factors.has_value()) return next->end;
  if (next->bits) return tensor.program->access() == Access::kWhole ? next->end : place;
  const uint64_t granule = tensor.copied()
                               ? static_cast<uint64_t>(Granule(tensor))
                               : static_cast<uint64_t>(Granule(tensor)) * BitsOf(next->dtype) / 8;
  const uint64_t within = (place - next->begin + granule - 1) / granule * granule;
  return std::min(next->begin + within, next->end);
}

void CutParts(const Plan& plan, PlanFile* file) {
  uint64_t step = kPartBytes;
  while (file->size / step >= kMaxParts) step *= 2;
  uint64_t begin = 0;
  for (uint64_t target = step; begin < file->size; target += step) {
    // The header is never cut.
    const uint64_t end = AllowedPlace(plan, *file, std::max<uint64_t>(target, file->header.size()));
    // After a long header, row or matrix the next place may be too near for a part of its own.
    if (end < begin + kMinPartBytes && end < file->size) continue;
    if (end <= begin) continue;
    file->parts.push_back({begin, end});
    begin = end;
  }
  if (file->parts.size() > 1) {
    const Part tail = file->parts.back();
    if (tail.end - tail.begin < kMinPartBytes) {
      file->parts.pop_back();
      file->parts.back().end = tail.end;
    }
  }
}

std::string IndexText(const std::map<std::string, std::string>& weight_map, uint64_t total_size) {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total_size;
  index["weight_map"] = nlohmann::ordered_json::object();
  for (const auto& [tensor, file] : weight_map) index["weight_map"][tensor] = file;
  return index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::Status LayOutArtifact(Plan* plan, const std::string& artifact,
                            const std::vector<Item>& items) {
  // One file, if that is what the artifact's name says. Variants may be named as they like.
  const std::vector<std::string> models = plan->models();
  const bool is_model = std::find(models.begin(), models.end(), artifact) != models.end();
  const bool lone =
      (absl::EndsWith(artifact, ".safetensors") && !is_model) || plan->adapter.has_value();
  const std::vector<ScalarSpec> scalars = plan->method->scalars();
  const std::vector<std::vector<Item>> shards =
      lone ? std::vector<std::vector<Item>>{items}
           : Shards(items, plan->recipe.output.max_shard_size);
  std::map<std::string, std::string> weight_map;
  uint64_t total_size = 0;
  const std::string folder = artifact.empty() ? "" : artifact + "/";
  for (size_t s = 0; s < shards.size(); ++s) {
    PlanFile file;
    file.artifact = artifact;
    const std::string name = shards.size() == 1 ? "model.safetensors"
                                                : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                                                  s + 1, shards.size());
    file.name = plan->adapter.has_value() ? kAdapterFile : lone ? artifact : folder + name;
    std::vector<TensorLayout> layouts;
    std::map<std::string, const Item*> by_name;
    for (const Item& item : shards[s]) {
      for (TensorLayout& layout : LayoutsOf(*plan, scalars, item)) {
        const std::string tensor = layout.name;
        if (!by_name.emplace(tensor, &item).second) {
          return MakeError(
              Reason::kUnsupported,
              absl::StrCat("a tensor is named ", tensor, ", as is a number that ",
                           plan->recipe.method, " writes beside it; rename the tensor"));
        }
        weight_map[tensor] = name;
        layouts.push_back(std::move(layout));
      }
    }
    ASSIGN_OR_RETURN(file.header, LayOutSafetensors(&layouts));
    file.size = file.header.size();
    for (const TensorLayout& layout : layouts) {
      const Item& item = *by_name[layout.name];
      const bool second = !file.placements.empty() && item.tensor != kScalar &&
                          plan->tensors[item.tensor].factors.has_value() &&
                          file.placements.back().tensor == item.tensor;
      if (second) {
        file.placements.back().end = layout.end;
      } else {
        file.placements.push_back(
            {item.tensor, item.sink, item.dtype, item.bits, layout.begin, layout.end});
      }
      file.size = std::max(file.size, layout.end);
      total_size += layout.end - layout.begin;
    }
    CutParts(*plan, &file);
    plan->output_bytes += file.size;
    plan->files.push_back(std::move(file));
  }
  if (shards.size() > 1) {
    const std::string index = IndexText(weight_map, total_size);
    if (artifact.empty()) {
      plan->index = index;
    } else {
      plan->blobs.push_back({folder + "model.safetensors.index.json", index, std::nullopt});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LayOutFiles(Plan* plan) {
  const std::vector<std::string> models = plan->models();
  std::map<std::string, std::vector<Item>> artifacts;
  for (const std::string& model : models) artifacts[model];
  for (size_t t = 0; t < plan->tensors.size(); ++t) {
    const PlanTensor& tensor = plan->tensors[t];
    if (tensor.left_out) continue;
    if (tensor.copied()) {
      for (const std::string& model : models) {
        artifacts[model].push_back(
            {static_cast<int>(t), 0, tensor.tensor.dtype, false, tensor.copy_bytes});
      }
      continue;
    }
    if (tensor.keep) {
      const auto bits =
          static_cast<uint64_t>(tensor.tensor.elements()) * BitsOf(tensor.tensor.dtype);
      for (const std::string& model : models) {
        artifacts[model].push_back(
            {static_cast<int>(t), 0, tensor.tensor.dtype, false, (bits + 7) / 8});
      }
      continue;
    }
    const std::vector<SinkSpec> sinks = tensor.program->sinks(tensor.tensor);
    for (size_t s = 0; s < sinks.size(); ++s) {
      const bool bits = sinks[s].bits;
      if (bits && tensor.program->access() == Access::kRow) {
        return MakeError(Reason::kInternal, "rows cannot be written as masks");
      }
      const DType dtype = bits ? DType::kU8 : sinks[s].dtype;
      const uint64_t width = bits ? 1 : BitsOf(dtype);
      const uint64_t elements =
          tensor.factors.has_value()
              ? static_cast<uint64_t>(tensor.factors->rank *
                                      (tensor.factors->out + tensor.factors->in))
              : static_cast<uint64_t>(tensor.tensor.elements());
      const uint64_t bytes = (elements * width + 7) / 8;
      artifacts[sinks[s].artifact].push_back(
          {static_cast<int>(t), static_cast<int>(s), dtype, bits, bytes});
    }
  }
  const std::vector<ScalarSpec> scalars = plan->method->scalars();
  for (size_t s = 0; s < scalars.size(); ++s) {
    artifacts[scalars[s].artifact].push_back(
        {kScalar, static_cast<int>(s), DType::kF64, false, sizeof(double)});
  }
  for (const auto& [artifact, items] : artifacts) {
    RETURN_IF_ERROR(LayOutArtifact(plan, artifact, items));
  }
  return absl::OkStatus();
}

void CutWriteTasks(Plan* plan) {
  for (size_t f = 0; f < plan->files.size(); ++f) {
    const std::vector<Part>& parts = plan->files[f].parts;
    for (size_t p = 0; p < parts.size();) {
      size_t last = p + 1;
      while (last < parts.size() && parts[last].end - parts[p].begin <= kTaskBytes) ++last;
      plan->write_tasks.push_back(
          {static_cast<int>(f), static_cast<int>(p), static_cast<int>(last)});
      p = last;
    }
  }
}

std::vector<std::vector<int>> AlikeFiles(const Plan& plan) {
  std::vector<std::vector<int>> alike;
  std::map<absl::string_view, size_t> known;  // by header, which says what is where
  for (size_t f = 0; f < plan.files.size(); ++f) {
    const auto [at, is_new] = known.emplace(plan.files[f].header, alike.size());
    if (is_new) alike.emplace_back();
    alike[at->second].push_back(static_cast<int>(f));
  }
  return alike;
}

void GroupWriteTasks(Plan* plan) {
  std::map<int, std::vector<int>> tasks_of;  // by file
  for (size_t t = 0; t < plan->write_tasks.size(); ++t) {
    tasks_of[plan->write_tasks[t].file].push_back(static_cast<int>(t));
  }
  const auto at_once = static_cast<size_t>(plan->memory.files_at_once);
  for (const std::vector<int>& alike : AlikeFiles(*plan)) {
    for (size_t first = 0; first < alike.size(); first += at_once) {
      const size_t last = std::min(first + at_once, alike.size());
      for (size_t t = 0; t < tasks_of[alike[first]].size(); ++t) {
        std::vector<int>& group = plan->write_groups.emplace_back();
        for (size_t f = first; f < last; ++f) group.push_back(tasks_of[alike[f]][t]);
      }
      for (const Placement& placement : plan->files[alike[first]].placements) {
        if (placement.tensor == kScalar) continue;
        const PlanTensor& tensor = plan->tensors[placement.tensor];
        const int64_t count =
            tensor.copied() ? static_cast<int64_t>(tensor.copy_bytes) : tensor.tensor.elements();
        for (const TensorSource& source : tensor.sources) {
          plan->write_bytes_read += SourceBytes(tensor, source, count);
        }
      }
    }
  }
}

void CutReduceTasks(Plan* plan) {
  for (size_t r = 0; r < plan->rounds.size(); ++r) {
    const int round = static_cast<int>(r);
    const bool alone = plan->rounds[r].group == Round::Group::kTensor;
    std::vector<ReduceTask> tasks;
    int64_t elements_in_task = 0;
    uint64_t bytes = 0;
    for (size_t t = 0; t < plan->tensors.size(); ++t) {
      const PlanTensor& tensor = plan->tensors[t];
      const bool in_memory =
          round >= plan->first_solve_round && (!tensor.streamed || tensor.left_out);
      if (!TakesPart(tensor, round) || (alone && in_memory)) continue;
      const int64_t elements = tensor.tensor.elements();
      for (const TensorSource& source : tensor.sources) {
        bytes += SourceBytes(tensor, source, elements);
      }
      const int64_t leaf = LeafElements(tensor);
      for (int64_t first = 0; first < elements; first += leaf) {
        // Small tensors share a task, but for rounds that solve each by itself.
        const int64_t count = std::min(leaf, elements - first);
        if (tasks.empty() || elements_in_task + count > kLeavesPerTask * kLeafElements ||
            (alone && first == 0)) {
          tasks.emplace_back();
          elements_in_task = 0;
        }
        tasks.back().leaves.push_back({static_cast<int>(t), first, count});
        elements_in_task += count;
      }
    }
    plan->reduce_tasks.push_back(std::move(tasks));
    plan->reduce_bytes.push_back(bytes);
  }
  for (const PlanTensor& tensor : plan->tensors) {
    if (tensor.left_out || !IsSolvedInMemory(*plan, tensor)) continue;
    for (const TensorSource& source : tensor.sources) {
      plan->write_bytes_read += SourceBytes(tensor, source, tensor.tensor.elements());
    }
  }
}

}  // namespace orthomerge
