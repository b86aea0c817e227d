#pragma once

#include "core/base/signals.h"
