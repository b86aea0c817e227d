// The version of orthomerge, from the build.
#pragma once

namespace orthomerge {

inline constexpr char kVersion[] = ORTHOMERGE_VERSION;

}  // namespace orthomerge
