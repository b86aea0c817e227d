#include "core/checkpoint/header_cache.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/strided_view.h"
#include "core/storage/fault_store.h"
#include "core/storage/local_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/torch_fixtures.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

InputFile FileOf(const std::string& name, const std::string& etag = "v1", uint64_t size = 100) {
  return {{Uri::Scheme::kS3, "bucket", name}, size, etag};
}

HeaderCache::Tensors SomeTensors(const std::string& name, size_t count = 1) {
  std::vector<TensorInfo> tensors(count);
  for (TensorInfo& tensor : tensors) tensor.name = name;
  return std::make_shared<const std::vector<TensorInfo>>(std::move(tensors));
}

TEST(HeaderCache, FindsTheVersionThatWasPut) {
  HeaderCache cache;
  EXPECT_EQ(cache.Find(FileOf("a")), nullptr);
  cache.Insert(FileOf("a"), SomeTensors("first"));
  ASSERT_NE(cache.Find(FileOf("a")), nullptr);
  EXPECT_EQ(cache.Find(FileOf("a"))->at(0).name, "first");
  EXPECT_EQ(cache.Find(FileOf("b")), nullptr);
  EXPECT_EQ(cache.Find(FileOf("a", "v2")), nullptr);
  EXPECT_EQ(cache.Find(FileOf("a", "v1", 101)), nullptr);
  cache.Insert(FileOf("a", "v2"), SomeTensors("second"));
  EXPECT_EQ(cache.Find(FileOf("a", "v2"))->at(0).name, "second");
  cache.Insert(FileOf("c", ""), SomeTensors("no version"));
  EXPECT_EQ(cache.Find(FileOf("c", "")), nullptr);
}

TEST(HeaderCache, WhatWasUsedLongestAgoGoesFirst) {
  HeaderCache probe;
  probe.Insert(FileOf("0"), SomeTensors("x", 10));
  const uint64_t each = probe.bytes();
  EXPECT_GT(each, 10 * sizeof(TensorInfo));
  HeaderCache cache(3 * each);
  for (const char* name : {"0", "1", "2"}) cache.Insert(FileOf(name), SomeTensors("x", 10));
  EXPECT_EQ(cache.bytes(), 3 * each);
  EXPECT_NE(cache.Find(FileOf("0")), nullptr);
  cache.Insert(FileOf("3"), SomeTensors("x", 10));
  EXPECT_EQ(cache.bytes(), 3 * each);
  EXPECT_EQ(cache.Find(FileOf("1")), nullptr);
  for (const char* name : {"0", "2", "3"}) EXPECT_NE(cache.Find(FileOf(name)), nullptr) << name;
  // Larger than the whole cache: not kept, and nothing goes for it.
  cache.Insert(FileOf("4"), SomeTensors("x", 100));
  EXPECT_EQ(cache.Find(FileOf("4")), nullptr);
  EXPECT_NE(cache.Find(FileOf("0")), nullptr);
}

TEST(HeaderCache, ManyThreads) {
  HeaderCache probe;
  probe.Insert(FileOf("00"), SomeTensors("x"));
  HeaderCache cache(5 * probe.bytes());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, t] {
      for (int i = 0; i < 2000; ++i) {
        const std::string name = absl::StrCat(10 + (i * (t + 1)) % 10);
        if (const auto found = cache.Find(FileOf(name))) {
          EXPECT_EQ(found->at(0).name, name);
        } else {
          cache.Insert(FileOf(name), SomeTensors(name));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache.bytes(), 5 * probe.bytes() + 50);
}

// Opening a checkpoint that is known asks for its version and reads no header.
TEST(HeaderCache, OpeningAgainReadsNoHeader) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/model.safetensors";
  const auto write = [&](const std::string& tensor) {
    std::vector<TensorLayout> layouts = {{tensor, DType::kF32, {2}}};
    const std::string header = LayOutSafetensors(&layouts).value();
    std::ofstream(path, std::ios::binary) << header << std::string(8, '\0');
  };
  write("one");
  int reads = 0, stats = 0;
  const auto local = MakeLocalStore();
  const auto store = MakeFaultStore(local.get(), [&](Operation operation, const Uri& uri) {
    if (uri.Name() == "model.safetensors") {
      reads += operation == Operation::kRead;
      stats += operation == Operation::kStat;
    }
    return Fault();
  });
  Storage storage(store.get(), nullptr);
  HeaderCache cache;
  const auto open = [&] {
    return Checkpoint::Open(storage, folder.uri(), {}, nullptr, {.header_cache = &cache});
  };
  const auto first = open();
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(reads, 1);
  EXPECT_EQ(stats, 1);
  const auto second = open();
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(reads, 1);
  EXPECT_EQ(stats, 2);
  ASSERT_EQ(second->tensors().size(), 1u);
  EXPECT_EQ(second->tensors()[0].name, "one");
  EXPECT_EQ(second->tensors()[0].begin, first->tensors()[0].begin);
  EXPECT_EQ(second->files()[0].etag, first->files()[0].etag);
  std::filesystem::remove(path);
  write("two");
  const auto third = open();
  ASSERT_THAT(third, IsOk());
  EXPECT_EQ(reads, 2);
  EXPECT_EQ(third->tensors()[0].name, "two");
}

// Torch files too, with their views; and who may not read them does not get them from the cache.
TEST(HeaderCache, KnowsTorchFiles) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/pytorch_model.bin", std::ios::binary)
      << TorchFile(pickled::Whole(pickled::Dict(
                       {{"w", pickled::Tensor(pickled::FloatStorage("0", 6), 0, {3, 2}, {1, 3})}})),
                   {{"0", std::string(24, 'x')}});
  const auto local = MakeLocalStore();
  int reads = 0;
  const auto store = MakeFaultStore(local.get(), [&](Operation operation, const Uri& uri) {
    reads += operation == Operation::kRead && uri.Name() == "pytorch_model.bin";
    return Fault();
  });
  Storage storage(store.get(), nullptr);
  HeaderCache cache;
  const auto open = [&](bool allow) {
    return Checkpoint::Open(storage, folder.uri(), {}, nullptr,
                            {.header_cache = &cache, .allow_pickle = allow});
  };
  const auto first = open(true);
  ASSERT_THAT(first, IsOk());
  EXPECT_GT(cache.bytes(), sizeof(StridedView));
  const int before = reads;
  const auto second = open(true);
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(reads, before);
  ASSERT_NE(second->tensors()[0].view, nullptr);
  EXPECT_EQ(second->tensors()[0].view->ToString(), first->tensors()[0].view->ToString());
  EXPECT_EQ(ReasonOf(open(false).status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace orthomerge
