#pragma once

#include "core/base/text_table.h"
