#include "core/jobs/job.h"

#include <gtest/gtest.h>

namespace orthomerge {
namespace {

// A label of metrics: of few values, whatever recipes are named.
TEST(JobTest, PhasesAreNamedByWhatTheyDo) {
  EXPECT_EQ(PhaseOf("write"), "write");
  EXPECT_EQ(PhaseOf("reduce 1/2"), "reduce");
  EXPECT_EQ(PhaseOf("first: reduce 1/2"), "reduce");
  EXPECT_EQ(PhaseOf("first: publish"), "publish");
  EXPECT_EQ(PhaseOf(""), "");
}

}  // namespace
}  // namespace orthomerge
