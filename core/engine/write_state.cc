#include "core/engine/write_state.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "core/base/digest.h"
#include "nlohmann/json.hpp"

namespace orthomerge {

std::string WriteResultName(size_t task) { return absl::StrFormat("write/%06d", task); }

std::string TaskResult::ToJson() const {
  auto counts = nlohmann::json::array();
  for (const auto& [key, count] : nonfinite) counts.push_back({key.first, key.second, count});
  nlohmann::json json = {
      {"upload", upload}, {"tags", tags}, {"digests", digests}, {"nonfinite", counts}};
  for (const auto& [tensor, norms] : factors) {
    json["factors"].push_back({tensor, norms.first, norms.second});
  }
  return json.dump();
}

std::optional<TaskResult> TaskResult::FromJson(const std::string& text, size_t parts) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  TaskResult result;
  try {
    result.upload = json.at("upload").get<std::string>();
    result.tags = json.at("tags").get<std::vector<std::string>>();
    result.digests = json.at("digests").get<std::vector<std::string>>();
    for (const auto& row : json.at("nonfinite")) {
      result.nonfinite[{row.at(0).get<int>(), row.at(1).get<int>()}] = row.at(2).get<int64_t>();
    }
    if (json.contains("factors")) {
      for (const auto& row : json.at("factors")) {
        result.factors[row.at(0).get<int>()] = {row.at(1).get<double>(), row.at(2).get<double>()};
      }
    }
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
  if (result.tags.size() != parts || result.digests.size() != parts) return std::nullopt;
  return result;
}

WriteState::WriteState(const StageContext& context, Publisher* publisher)
    : context_(context), publisher_(publisher) {
  result_.tags.resize(context.plan.files.size());
  result_.digests.resize(context.plan.files.size());
  for (size_t f = 0; f < context.plan.files.size(); ++f) {
    result_.tags[f].resize(context.plan.files[f].parts.size());
    result_.digests[f].resize(context.plan.files[f].parts.size());
  }
}

absl::Status WriteState::Load() {
  const std::vector<WriteTask>& tasks = context_.plan.write_tasks;
  for (size_t t = 0; t < tasks.size(); ++t) {
    RETURN_IF_ERROR(context_.call.Check());
    const size_t parts = static_cast<size_t>(tasks[t].last_part - tasks[t].first_part);
    ASSIGN_OR_RETURN(const std::optional<std::string> text,
                     context_.work_area.Get(WriteResultName(t)));
    std::optional<TaskResult> result =
        text.has_value() ? TaskResult::FromJson(*text, parts) : std::nullopt;
    if (result.has_value()) {
      ASSIGN_OR_RETURN(const std::string upload, publisher_->RecordedUpload(tasks[t].file));
      if (result->upload != upload) result.reset();
    }
    if (text.has_value() && !result.has_value()) {
      RETURN_IF_ERROR(context_.work_area.Forget(WriteResultName(t)));
    }
    absl::MutexLock lock(&mutex_);
    tasks_.emplace_back();
    if (result.has_value()) {
      Keep(t, *result);
      context_.traffic->resumed += TaskBytes(tasks[t]);
      continue;
    }
    tasks_[t].result.tags.resize(parts);
    tasks_[t].result.digests.resize(parts);
    tasks_[t].missing = parts;
  }
  absl::MutexLock lock(&mutex_);
  for (const std::vector<int>& group : context_.plan.write_groups) {
    Unit unit;
    for (const int t : group) {
      if (tasks_[t].missing > 0) unit.tasks.push_back(static_cast<size_t>(t));
    }
    if (unit.tasks.empty()) continue;
    const WriteTask& task = tasks[unit.tasks[0]];
    for (unit.part = task.first_part; unit.part < task.last_part; ++unit.part) {
      queue_.push_back(unit);
    }
  }
  return absl::OkStatus();
}

std::optional<WriteState::Unit> WriteState::Next() {
  absl::MutexLock lock(&mutex_);
  if (next_ >= queue_.size()) return std::nullopt;
  return queue_[next_++];
}

absl::Status WriteState::Finish(size_t task_index, int part, absl::string_view bytes,
                                const NonFiniteCounts& nonfinite, const FactorErrors& factors) {
  const WriteTask& task = context_.plan.write_tasks[task_index];
  ASSIGN_OR_RETURN(std::string tag, publisher_->PutPart(task.file, part, bytes));
  context_.traffic->written += bytes.size();
  std::string digest = Xxh3Hex(bytes);
  {
    absl::MutexLock lock(&mutex_);
    Pending& pending = tasks_[task_index];
    const size_t slot = static_cast<size_t>(part - task.first_part);
    pending.result.tags[slot] = std::move(tag);
    pending.result.digests[slot] = std::move(digest);
    for (const auto& [key, count] : nonfinite) pending.result.nonfinite[key] += count;
    pending.result.factors.insert(factors.begin(), factors.end());
    if (--pending.missing > 0) return absl::OkStatus();
  }
  // The data are durable before the result says so.
  RETURN_IF_ERROR(publisher_->Sync(task.file));
  ASSIGN_OR_RETURN(const std::string upload, publisher_->RecordedUpload(task.file));
  std::string json;
  {
    absl::MutexLock lock(&mutex_);
    tasks_[task_index].result.upload = upload;
    json = tasks_[task_index].result.ToJson();
    Keep(task_index, tasks_[task_index].result);
  }
  return context_.work_area.Put(WriteResultName(task_index), json);
}

WriteResult WriteState::Take() {
  absl::MutexLock lock(&mutex_);
  return std::move(result_);
}

void WriteState::Keep(size_t t, const TaskResult& result) {
  const WriteTask& task = context_.plan.write_tasks[t];
  for (size_t p = 0; p < result.tags.size(); ++p) {
    result_.tags[task.file][task.first_part + p] = result.tags[p];
    result_.digests[task.file][task.first_part + p] = result.digests[p];
  }
  for (const auto& [key, count] : result.nonfinite) result_.nonfinite[key] += count;
  result_.factors.insert(result.factors.begin(), result.factors.end());
}

// Bytes written by a task, and its share of the bytes read.
uint64_t WriteState::TaskBytes(const WriteTask& task) const {
  const PlanFile& file = context_.plan.files[task.file];
  const uint64_t written = file.parts[task.last_part - 1].end - file.parts[task.first_part].begin;
  const double share =
      static_cast<double>(written) / static_cast<double>(context_.plan.output_bytes);
  return written +
         static_cast<uint64_t>(share * static_cast<double>(context_.plan.write_bytes_read));
}

}  // namespace orthomerge
