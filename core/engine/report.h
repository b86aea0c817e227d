// The files that explain a merged model: report.json and orthomerge.json.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/engine/plan.h"
#include "core/engine/stages.h"

namespace orthomerge {

// Digest of a file from those of its parts.
std::string FileDigest(const std::vector<std::string>& part_digests);

struct RunFacts {
  const Solved* solved = nullptr;
  const WriteResult* written = nullptr;
  std::vector<StageResult> stages;
  bool resumed = false;
  // Names and reports of the recipes whose results the plan reads.
  std::vector<std::pair<std::string, std::string>> intermediates = {};
};

// What a person wants to know; `warnings` receives what the method and the data gave rise to.
std::string ReportJson(const Plan& plan, const RunFacts& facts, std::vector<std::string>* warnings);

// Provenance: recipe, pinned inputs, digests, versions.
std::string ProvenanceJson(const Plan& plan, const WriteResult& written);

// The files that a provenance text lists; none if it is damaged.
std::vector<OutputFile> FilesOfProvenance(const std::string& text);

}  // namespace orthomerge
