// The API against the description that clients were built with (golden.binpb).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "google/protobuf/descriptor.h"
#include "orthomerge/v1/merge_service.pb.h"
#include "tests/proto/breaking.h"

namespace orthomerge {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kFolder[] = "orthomerge/";
constexpr char kAdvice[] = "if this is meant, run scripts/check-proto --accept";

FileDescriptorSet Golden() {
  std::ifstream file(ORTHOMERGE_SOURCE_DIR "/tests/proto/golden.binpb", std::ios::binary);
  FileDescriptorSet set;
  EXPECT_TRUE(set.ParseFromIstream(&file));
  EXPECT_GE(set.file_size(), 4);
  return set;
}

void AddWithImports(const FileDescriptor* file, FileDescriptorSet* set) {
  for (const FileDescriptorProto& known : set->file()) {
    if (known.name() == std::string(file->name())) return;
  }
  for (int i = 0; i < file->dependency_count(); ++i) AddWithImports(file->dependency(i), set);
  FileDescriptorProto* proto = set->add_file();
  file->CopyTo(proto);
  file->CopyJsonNameTo(proto);
  // Where protoc leaves the default away, reflection spells it out.
  if (proto->syntax().empty()) proto->set_syntax("proto2");
}

FileDescriptorSet Current() {
  FileDescriptorSet set;
  AddWithImports(v1::CreateMergeJobRequest::descriptor()->file()->pool()->FindFileByName(
                     "orthomerge/v1/merge_service.proto"),
                 &set);
  return set;
}

TEST(GoldenTest, NothingThatClientsUseHasChanged) {
  EXPECT_THAT(BreakingChanges(Golden(), Current(), kFolder), IsEmpty()) << kAdvice;
}

TEST(GoldenTest, EveryAdditionIsRecorded) {
  EXPECT_THAT(BreakingChanges(Current(), Golden(), kFolder), IsEmpty())
      << "the golden set lacks what the lines call gone; " << kAdvice;
}

// The check itself: each change of one thing is found, and called by its name.
struct Change {
  const char* expected;
  std::function<void(FileDescriptorSet*)> make;
};

FileDescriptorProto* File(FileDescriptorSet* set, const std::string& name) {
  for (FileDescriptorProto& file : *set->mutable_file()) {
    if (file.name() == "orthomerge/v1/" + name) return &file;
  }
  ADD_FAILURE() << name;
  return nullptr;
}

DescriptorProto* Message(FileDescriptorSet* set, const std::string& file, const std::string& name) {
  for (DescriptorProto& message : *File(set, file)->mutable_message_type()) {
    if (message.name() == name) return &message;
  }
  ADD_FAILURE() << name;
  return nullptr;
}

TEST(BreakingTest, FindsEveryKindOfChange) {
  const auto output = [](FileDescriptorSet* set) { return Message(set, "recipe.proto", "Output"); };
  const auto job = [](FileDescriptorSet* set) {
    return Message(set, "merge_job.proto", "MergeJob");
  };
  const auto spec = [](FileDescriptorSet* set) {
    return Message(set, "merge_job.proto", "MergeJobSpec");
  };
  const auto service = [](FileDescriptorSet* set) {
    return File(set, "merge_service.proto")->mutable_service(0);
  };
  const std::vector<Change> changes = {
      {"Output: field uri = 1 is gone",
       [&](auto* set) { output(set)->mutable_field()->DeleteSubrange(0, 1); }},
      {"Output.uri: name was uri, is url",
       [&](auto* set) { output(set)->mutable_field(0)->set_name("url"); }},
      {"Output.uri: JSON name",
       [&](auto* set) { output(set)->mutable_field(0)->set_json_name("Uri"); }},
      {"Output.uri: type was 9, is 12",
       [&](auto* set) {
         output(set)->mutable_field(0)->set_type(
             google::protobuf::FieldDescriptorProto::TYPE_BYTES);
       }},
      {"Output.uri: label",
       [&](auto* set) {
         output(set)->mutable_field(0)->set_label(
             google::protobuf::FieldDescriptorProto::LABEL_REPEATED);
       }},
      {"Output.max_shard_size: optional",
       [&](auto* set) { output(set)->mutable_field(2)->clear_proto3_optional(); }},
      {"MergeJobSpec.recipe: oneof was source, is none",
       [&](auto* set) { spec(set)->mutable_field(0)->clear_oneof_index(); }},
      {"MergeJob: State: value STATE_QUEUED is gone",
       [&](auto* set) { job(set)->mutable_enum_type(0)->mutable_value()->DeleteSubrange(1, 1); }},
      {"MergeJob: State.STATE_QUEUED: number was 1, is 9",
       [&](auto* set) { job(set)->mutable_enum_type(0)->mutable_value(1)->set_number(9); }},
      {"rpc CreateMergeJob is gone",
       [&](auto* set) { service(set)->mutable_method()->DeleteSubrange(0, 1); }},
      {"CreateMergeJob: response",
       [&](auto* set) { service(set)->mutable_method(0)->set_output_type(".google.x"); }},
      {"WatchMergeJob: server streaming",
       [&](auto* set) { service(set)->mutable_method(5)->set_server_streaming(false); }},
      {"recipe.proto: message Recipe is gone",
       [&](auto* set) { File(set, "recipe.proto")->mutable_message_type()->DeleteSubrange(0, 1); }},
      {"recipe.proto: package",
       [&](auto* set) { File(set, "recipe.proto")->set_package("orthomerge.v2"); }},
      {"recipe.proto: the file is gone",
       [&](auto* set) { File(set, "recipe.proto")->set_name("orthomerge/v1/other.proto"); }},
  };
  for (const Change& change : changes) {
    FileDescriptorSet set = Current();
    change.make(&set);
    EXPECT_THAT(BreakingChanges(Current(), set, kFolder), ElementsAre(HasSubstr(change.expected)));
  }
}

TEST(BreakingTest, KeepsWhatIsReserved) {
  FileDescriptorSet before = Current();
  DescriptorProto* message = Message(&before, "recipe.proto", "Output");
  message->add_reserved_name("old");
  message->add_reserved_range()->set_start(7);
  message->mutable_reserved_range(0)->set_end(9);
  EXPECT_THAT(BreakingChanges(before, Current(), kFolder),
              ElementsAre(HasSubstr("reserved 7 to 9 is gone"), HasSubstr("reserved \"old\"")));
}

TEST(BreakingTest, AllowsAdditions) {
  FileDescriptorSet after = Current();
  Message(&after, "recipe.proto", "Output")->add_field()->set_number(99);
  File(&after, "recipe.proto")->add_message_type()->set_name("New");
  EXPECT_THAT(BreakingChanges(Current(), after, kFolder), IsEmpty());
}

}  // namespace
}  // namespace orthomerge
