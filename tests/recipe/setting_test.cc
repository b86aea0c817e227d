#include "core/recipe/setting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/status.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

NameFilter Filter(absl::string_view text) {
  const absl::StatusOr<NameFilter> filter = NameFilter::Parse(text);
  EXPECT_TRUE(filter.ok()) << filter.status();
  return filter.ok() ? *filter : NameFilter();
}

Setting Gradient(std::vector<ParameterValue> values) {
  return Setting({{.filter = {}, .values = std::move(values)}});
}

double NumberAt(const Setting& setting, double depth) {
  return std::get<double>(setting.At("w", depth).value_or(ParameterValue(-1e9)));
}

TEST(NameFilterTest, PlainTextIsAPartOfTheName) {
  EXPECT_TRUE(Filter("experts.3.").Matches("mlp.experts.3.w"));
  EXPECT_FALSE(Filter("experts.3.").Matches("mlp.experts.13.w"));
  EXPECT_FALSE(Filter("a*c").Matches("abc"));  // no glob without its word
  EXPECT_TRUE(Filter("*").Matches(""));
  EXPECT_TRUE(Filter("*").matches_all());
  EXPECT_TRUE(NameFilter().matches_all());
}

TEST(NameFilterTest, RegularExpressionsSearch) {
  EXPECT_TRUE(Filter("regex:layers\\.[0-3]\\.").Matches("model.layers.2.w"));
  EXPECT_FALSE(Filter("regex:layers\\.[0-3]\\.").Matches("model.layers.12.w"));
  EXPECT_TRUE(Filter("regex:^lm_head").Matches("lm_head.weight"));
  EXPECT_FALSE(Filter("regex:^head").Matches("lm_head.weight"));
}

TEST(NameFilterTest, GlobsAreForTheWholeName) {
  EXPECT_TRUE(Filter("glob:*.mlp.*").Matches("model.layers.0.mlp.w"));
  EXPECT_FALSE(Filter("glob:mlp.*").Matches("model.layers.0.mlp.w"));
  EXPECT_TRUE(Filter("glob:layers.?.w").Matches("layers.7.w"));
  EXPECT_FALSE(Filter("glob:layers.?.w").Matches("layers.17.w"));
  EXPECT_FALSE(Filter("glob:a.c").Matches("abc"));  // a dot is a dot
  EXPECT_TRUE(Filter("glob:a(b)[c]+\xc3\xa9*").Matches("a(b)[c]+\xc3\xa9x"));
}

TEST(NameFilterTest, BadPatternsAreRefused) {
  EXPECT_THAT(NameFilter::Parse("regex:(").status().message(), HasSubstr("missing )"));
  EXPECT_THAT(NameFilter::Parse("regex:").status().message(), HasSubstr("1 to 1000 bytes"));
  EXPECT_FALSE(NameFilter::Parse("glob:").ok());
  EXPECT_FALSE(NameFilter::Parse("regex:" + std::string(1001, 'a')).ok());
  // Small, but a large machine.
  EXPECT_FALSE(NameFilter::Parse("regex:((a{100}){100}){100}").ok());
  EXPECT_EQ(ReasonOf(NameFilter::Parse("regex:\\1").status()), Reason::kOutOfRange);
}

TEST(NameFilterTest, MatchingStaysLinear) {
  const std::string name(2000, 'a');
  EXPECT_FALSE(Filter("regex:^(a|aa|a*)*b").Matches(name));
  EXPECT_FALSE(Filter("glob:*a*a*a*a*a*a*a*a*a*a*b").Matches(name));
}

TEST(SettingTest, GradientsAreInterpolated) {
  // mergekit's own example over 8 layers.
  const Setting setting = Gradient({1.0, 0.7, 0.1});
  const double expected[] = {1, .9143, .8286, .7429, .6143, .4429, .2714, .1};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(NumberAt(setting, i / 7.0), expected[i], 5e-5) << i;
  EXPECT_EQ(NumberAt(setting, 0), 1);
  EXPECT_EQ(NumberAt(setting, 1), 0.1);
  EXPECT_EQ(NumberAt(Gradient({3.0}), 0.4), 3);
  EXPECT_EQ(Gradient({int64_t{10}, int64_t{20}}).At("w", 0.26), ParameterValue(int64_t{13}));
}

TEST(SettingTest, OtherValuesAreChosen) {
  const Setting setting = Gradient({true, false, true});
  EXPECT_EQ(setting.At("w", 0.49), ParameterValue(true));
  EXPECT_EQ(setting.At("w", 0.5), ParameterValue(false));
  EXPECT_EQ(setting.At("w", 0.99), ParameterValue(false));
  EXPECT_EQ(setting.At("w", 1), ParameterValue(true));
}

TEST(SettingTest, TheFirstMatchDecides) {
  const Setting setting({{Filter("attn"), {1.0}}, {Filter("regex:mlp|attn"), {2.0, 4.0}}});
  EXPECT_EQ(setting.At("x.attn", 0), ParameterValue(1.0));
  EXPECT_EQ(setting.At("x.mlp", 0.5), ParameterValue(3.0));
  EXPECT_EQ(setting.At("norm", 0), std::nullopt);
  EXPECT_FALSE(setting.always_yields());
  EXPECT_TRUE(Setting({{Filter("attn"), {1.0}}, {Filter("*"), {2.0}}}).always_yields());
}

}  // namespace
}  // namespace orthomerge
