#include "core/jobs/sqlite_filter.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using Kind = JobFilter::Kind;
using Field = JobFilter::Field;
using Op = JobFilter::Op;

const char* Sign(Op op) {
  switch (op) {
    case Op::kNotEqual:
      return "<>";
    case Op::kLess:
      return "<";
    case Op::kLessEqual:
      return "<=";
    case Op::kGreater:
      return ">";
    case Op::kGreaterEqual:
      return ">=";
    case Op::kEqual:
    case Op::kPresent:
      break;
  }
  return "=";
}

class Compiler {
 public:
  void Add(const JobFilter& filter, bool top) {
    switch (filter.kind) {
      case Kind::kAll:
        out_.text += "1";
        return;
      case Kind::kNot:
        out_.text += "NOT ";
        Add(filter.operands.at(0), false);
        return;
      case Kind::kAnd:
      case Kind::kOr: {
        const bool all = filter.kind == Kind::kAnd;
        const char* separator = "(";
        for (const JobFilter& operand : filter.operands) {
          out_.text += separator;
          Add(operand, top && all);
          separator = all ? " AND " : " OR ";
        }
        out_.text += ")";
        return;
      }
      case Kind::kCompare:
        Compare(filter, top);
        return;
    }
  }

  SqlCondition Take() { return std::move(out_); }

 private:
  void Compare(const JobFilter& filter, bool top) {
    switch (filter.field) {
      case Field::kState:
        // An index on the state helps one state only: the order of several would have to be sorted.
        return Term(absl::StrCat(top && filter.op == Op::kEqual ? "" : "+", "job.state ",
                                 Sign(filter.op), " ?"),
                    filter.text);
      case Field::kMethod:
        return Term(absl::StrCat("job.method ", Sign(filter.op), " ?"), filter.text);
      case Field::kErrorReason:
        return Term(absl::StrCat("job.error_reason ", Sign(filter.op), " ?"), filter.text);
      case Field::kPriority:
        return Term(absl::StrCat("job.priority ", Sign(filter.op), " ?"), filter.number);
      case Field::kLabel:
        return Label(filter);
      case Field::kCreateTime:
        return Time("job.create_time", filter);
      case Field::kEndTime:
        return Time("job.end_time", filter);
    }
  }

  void Term(const std::string& text, SqlValue value) {
    absl::StrAppend(&out_.text, "(", text, ")");
    out_.values.push_back(std::move(value));
  }

  void Label(const JobFilter& filter) {
    absl::StrAppend(&out_.text, filter.op == Op::kNotEqual ? "NOT " : "",
                    "EXISTS (SELECT 1 FROM job_label WHERE job_label.job = job.number AND "
                    "job_label.name = ?");
    out_.values.push_back(filter.label);
    if (filter.op != Op::kPresent) {
      out_.text += " AND job_label.value = ?";
      out_.values.push_back(filter.text);
    }
    out_.text += ")";
  }

  // The stored times are whole microseconds, the filter's need not be. A missing time is unequal to
  // all and neither before nor after any.
  void Time(const std::string& column, const JobFilter& filter) {
    const int64_t micros = absl::ToUnixMicros(filter.time);
    const bool whole = absl::FromUnixMicros(micros) == filter.time;
    Op op = filter.op;
    if (!whole && (op == Op::kEqual || op == Op::kNotEqual)) {
      out_.text += op == Op::kEqual ? "0" : "1";
      return;
    }
    if (!whole && op == Op::kLess) op = Op::kLessEqual;
    if (!whole && op == Op::kGreaterEqual) op = Op::kGreater;
    if (op == Op::kEqual) return Term(absl::StrCat(column, " IS ?"), micros);
    if (op == Op::kNotEqual) return Term(absl::StrCat(column, " IS NOT ?"), micros);
    Term(absl::StrCat(column, " IS NOT NULL AND ", column, " ", Sign(op), " ?"), micros);
  }

  SqlCondition out_;
};

}  // namespace

SqlCondition CompileFilter(const JobFilter& filter) {
  Compiler compiler;
  compiler.Add(filter, /*top=*/true);
  return compiler.Take();
}

const JobFilter* RequiredLabel(const JobFilter& filter) {
  if (filter.kind == Kind::kCompare) {
    return filter.field == Field::kLabel && filter.op == Op::kEqual ? &filter : nullptr;
  }
  if (filter.kind != Kind::kAnd) return nullptr;
  for (const JobFilter& operand : filter.operands) {
    if (const JobFilter* label = RequiredLabel(operand)) return label;
  }
  return nullptr;
}

void BindAll(SqliteQuery& query, const std::vector<SqlValue>& values) {
  for (const SqlValue& value : values) {
    std::visit([&](const auto& item) { query.Bind(item); }, value);
  }
}

}  // namespace orthomerge
