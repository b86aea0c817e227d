// The makers behind registry.cc, one per method file.
#pragma once

#include <memory>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

std::unique_ptr<Method> MakeAverage(const MethodSpec& spec);
std::unique_ptr<Method> MakeAwd(const MethodSpec& spec);
std::unique_ptr<Method> MakeBreadcrumbs(const MethodSpec& spec);
std::unique_ptr<Method> MakeConsensus(const MethodSpec& spec);
std::unique_ptr<Method> MakeDare(const MethodSpec& spec);
std::unique_ptr<Method> MakeDoge(const MethodSpec& spec);
std::unique_ptr<Method> MakeEmr(const MethodSpec& spec);
std::unique_ptr<Method> MakeIsoC(const MethodSpec& spec);
std::unique_ptr<Method> MakeIsoCts(const MethodSpec& spec);
std::unique_ptr<Method> MakeKnots(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitArceeFusion(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitKarcher(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitLinear(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitModelStock(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitMultislerp(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitNearswap(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitNuslerp(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitPassthrough(const MethodSpec& spec);
// ram and ramplus_tl.
std::unique_ptr<Method> MakeMergekitRam(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitSce(const MethodSpec& spec);
std::unique_ptr<Method> MakeMergekitSlerp(const MethodSpec& spec);
// task_arithmetic, ties, dare_*, della*, breadcrumbs*.
std::unique_ptr<Method> MakeMergekitSparse(const MethodSpec& spec);
std::unique_ptr<Method> MakeModelStock(const MethodSpec& spec);
std::unique_ptr<Method> MakePcb(const MethodSpec& spec);
std::unique_ptr<Method> MakeTallMasks(const MethodSpec& spec);
std::unique_ptr<Method> MakeTaskArithmetic(const MethodSpec& spec);
std::unique_ptr<Method> MakeTatr(const MethodSpec& spec);
std::unique_ptr<Method> MakeTies(const MethodSpec& spec);
std::unique_ptr<Method> MakeTsvM(const MethodSpec& spec);
std::unique_ptr<Method> MakeWudi(const MethodSpec& spec);

// The transforms' rounds first, their maps before everything that follows.
std::unique_ptr<Method> MakeChain(std::vector<std::unique_ptr<Method>> transforms,
                                  std::unique_ptr<Method> method);

}  // namespace orthomerge
