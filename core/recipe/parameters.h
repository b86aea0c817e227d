// Parameters of methods against their schemas.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/recipe/reader.h"

namespace orthomerge {

// Parameters that stand in the recipe at one level. Null: given, but faulty and reported.
using GivenParameters = std::map<std::string, std::optional<ParameterValue>>;

std::vector<std::string> ParameterNames(const MethodSchema& method);

// A native value: of the schema's type, within its range.
std::optional<ParameterValue> ReadParameter(const ParameterSchema& schema, const YamlValue& value,
                                            const std::string& field, Reader* reader);

// Native parameters at one level; nothing after faults. `model_only`: at a model, where others have
// no place. `method` is null where its name was a fault.
GivenParameters ReadParameters(const YamlEntry* entry, const std::string& field,
                               const MethodSchema* method, bool model_only, Reader* reader);

// mergekit's: a value, a list of values over the layers, {value, filter}, or a list of those.
// Values are numbers as there: yes and true are 1, "0.5" is 0.5.
std::optional<Setting> ReadSetting(const ParameterSchema& schema, const YamlValue& value,
                                   const std::string& field, Reader* reader);

// Reports a value outside of the schema's range.
bool CheckRange(const ParameterSchema& schema, double number, const YamlValue& value,
                const std::string& field, Reader* reader);

// Puts the parameter into `result` from the first level that has it, else from the default. False
// if it is required and no level has it.
bool Resolve(const ParameterSchema& schema, absl::Span<const GivenParameters* const> levels,
             ParameterMap* result);

}  // namespace orthomerge
