#include "core/base/secret.h"

#include <type_traits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

template <typename T, typename = void>
struct CanStream : std::false_type {};
template <typename T>
struct CanStream<T, std::void_t<decltype(std::declval<std::ostream&>() << std::declval<T>())>>
    : std::true_type {};

TEST(Secret, IsShownByNothing) {
  static_assert(!CanStream<Secret>::value);
  static_assert(!std::is_convertible_v<Secret, std::string>);
  static_assert(!std::is_convertible_v<Secret, const char*>);
  const Secret secret("hunter2");
  EXPECT_THAT(testing::PrintToString(secret), testing::Not(testing::HasSubstr("hunter2")));
  EXPECT_EQ(secret.Reveal(), "hunter2");
}

TEST(Secret, Compares) {
  EXPECT_TRUE(Secret().empty());
  EXPECT_EQ(Secret("a"), Secret(std::string("a")));
  EXPECT_NE(Secret("a"), Secret("b"));
}

}  // namespace
}  // namespace orthomerge
