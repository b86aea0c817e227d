// How far a run is, for people: the engine's Progress drawn by core/base.
#pragma once

#include "core/base/progress_line.h"
#include "core/engine/engine.h"  // Progress, which becomes a ProgressSample
