// Finds orthomerged and becomes it.
#pragma once

#include <string>

namespace orthomerge::client {

// Path of orthomerged: beside this program's own file (links resolved), else on PATH; empty when it
// is in neither place.
std::string FindOrthomerged();

// Replaces this process by `program` with the same arguments, environment and open files, so that
// signals, output and exit code are those of `program`. Returns only when that failed, with the
// reason.
std::string HandOver(const std::string& program, char** argv);

}  // namespace orthomerge::client
