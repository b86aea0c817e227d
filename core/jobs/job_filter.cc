#include "core/jobs/job_filter.h"

#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxBytes = 4096;
constexpr int kMaxComparisons = 64;
constexpr int kMaxLevels = 16;
constexpr char kFields[] =
    "state, method, error.reason, labels.KEY, priority, create_time, end_time";

struct Token {
  enum class Kind { kEnd, kWord, kQuoted, kOperator, kOpen, kClose, kMinus };
  Kind kind = Kind::kEnd;
  std::string text;
  size_t column = 1;
};

absl::Status Fault(size_t column, absl::string_view message) {
  return MakeError(Reason::kInvalidFilter, absl::StrCat("filter, column ", column, ": ", message));
}

bool IsWordByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || (c & 0x80) != 0 ||
         (c != '\0' && std::string("._-/+*@").find(c) != std::string::npos);
}

class Lexer {
 public:
  explicit Lexer(absl::string_view text) : text_(text) {}

  // `value`: a colon belongs to the word, as in times, and a leading '-' to a number.
  absl::StatusOr<Token> Next(bool value) {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    Token token;
    token.column = at_ + 1;
    if (at_ == text_.size()) return token;
    const char c = text_[at_];
    if (c == '"') return Quoted(std::move(token));
    if (c == '(' || c == ')') {
      ++at_;
      token.kind = c == '(' ? Token::Kind::kOpen : Token::Kind::kClose;
      token.text = c;
      return token;
    }
    if (c == '-' && !value) {
      ++at_;
      token.kind = Token::Kind::kMinus;
      token.text = "-";
      return token;
    }
    if (c == '=' || c == '!' || c == '<' || c == '>' || (c == ':' && !value)) {
      return Operator(std::move(token));
    }
    while (at_ < text_.size() && (IsWordByte(text_[at_]) || (value && text_[at_] == ':'))) ++at_;
    token.kind = Token::Kind::kWord;
    token.text = std::string(text_.substr(token.column - 1, at_ - token.column + 1));
    if (token.text.empty()) {
      return Fault(token.column,
                   "unexpected character; put values with spaces or signs in "
                   "\"quotes\"");
    }
    return token;
  }

 private:
  absl::StatusOr<Token> Quoted(Token token) {
    token.kind = Token::Kind::kQuoted;
    for (++at_; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == '"') {
        ++at_;
        return token;
      }
      if (c == '\\') {
        if (++at_ == text_.size()) break;
        c = text_[at_];
        if (c != '"' && c != '\\') {
          return Fault(at_, "only \\\" and \\\\ may follow a backslash in quotes");
        }
      }
      if (c == '\0') return Fault(at_ + 1, "a value cannot contain a NUL byte");
      token.text += c;
    }
    return Fault(token.column, "the quote is not closed; add \"");
  }

  absl::StatusOr<Token> Operator(Token token) {
    token.kind = Token::Kind::kOperator;
    token.text = text_[at_++];
    if (token.text != "=" && token.text != ":" && at_ < text_.size() && text_[at_] == '=') {
      token.text += text_[at_++];
    }
    if (token.text == "!") return Fault(token.column, "expected '!='");
    return token;
  }

  const absl::string_view text_;
  size_t at_ = 0;
};

using Kind = JobFilter::Kind;
using Field = JobFilter::Field;
using Op = JobFilter::Op;

class Parser {
 public:
  explicit Parser(absl::string_view text) : lexer_(text) {}

  absl::StatusOr<JobFilter> Parse() {
    RETURN_IF_ERROR(Advance(false));
    if (token_.kind == Token::Kind::kEnd) return JobFilter();
    ASSIGN_OR_RETURN(JobFilter filter, Filter(1));
    if (token_.kind == Token::Kind::kClose) return Fault(token_.column, "no '(' for this ')'");
    if (token_.kind != Token::Kind::kEnd) {
      return Fault(token_.column, "expected AND, OR or the end of the filter");
    }
    return filter;
  }

 private:
  absl::Status Advance(bool value) {
    ASSIGN_OR_RETURN(token_, lexer_.Next(value));
    return absl::OkStatus();
  }

  bool IsWord(absl::string_view word) const {
    return token_.kind == Token::Kind::kWord && token_.text == word;
  }

  // `part`, joined by `word`.
  template <typename Part>
  absl::StatusOr<JobFilter> Sequence(Kind kind, const char* word, Part part) {
    ASSIGN_OR_RETURN(JobFilter first, part());
    if (!IsWord(word)) return first;
    JobFilter joined;
    joined.kind = kind;
    joined.operands.push_back(std::move(first));
    while (IsWord(word)) {
      RETURN_IF_ERROR(Advance(false));
      ASSIGN_OR_RETURN(JobFilter next, part());
      joined.operands.push_back(std::move(next));
    }
    return joined;
  }

  absl::StatusOr<JobFilter> Filter(int level) {
    if (level > kMaxLevels) {
      return Fault(token_.column,
                   absl::StrCat("more than ", kMaxLevels, " levels of parentheses and NOT"));
    }
    return Sequence(Kind::kAnd, "AND",
                    [&] { return Sequence(Kind::kOr, "OR", [&] { return Term(level); }); });
  }

  absl::StatusOr<JobFilter> Term(int level) {
    if (IsWord("NOT") || token_.kind == Token::Kind::kMinus) {
      RETURN_IF_ERROR(Advance(false));
      JobFilter negation;
      negation.kind = Kind::kNot;
      if (IsWord("NOT") || token_.kind == Token::Kind::kMinus) {
        return Fault(token_.column, "NOT of NOT; leave both out");
      }
      ASSIGN_OR_RETURN(JobFilter operand, Term(level));
      negation.operands.push_back(std::move(operand));
      return negation;
    }
    if (token_.kind != Token::Kind::kOpen) return Comparison();
    const size_t open = token_.column;
    RETURN_IF_ERROR(Advance(false));
    ASSIGN_OR_RETURN(JobFilter inner, Filter(level + 1));
    if (token_.kind != Token::Kind::kClose) {
      return Fault(token_.column,
                   absl::StrCat("expected AND, OR or ')' for the '(' at column ", open));
    }
    RETURN_IF_ERROR(Advance(false));
    return inner;
  }

  absl::StatusOr<JobFilter> Comparison() {
    if (++comparisons_ > kMaxComparisons) {
      return Fault(token_.column, absl::StrCat("more than ", kMaxComparisons, " comparisons"));
    }
    JobFilter comparison;
    comparison.kind = Kind::kCompare;
    const Token field = token_;
    RETURN_IF_ERROR(ReadField(field, &comparison));
    RETURN_IF_ERROR(Advance(false));
    if (token_.kind != Token::Kind::kOperator) {
      return Fault(token_.column,
                   absl::StrCat("expected one of = != < <= > >= after '", field.text, "'"));
    }
    const Token sign = token_;
    RETURN_IF_ERROR(ReadOperator(sign, &comparison));
    RETURN_IF_ERROR(Advance(true));
    const Token value = token_;
    if (value.kind != Token::Kind::kWord && value.kind != Token::Kind::kQuoted) {
      return Fault(value.column, absl::StrCat("expected a value after '", sign.text, "'"));
    }
    RETURN_IF_ERROR(ReadValue(sign, value, &comparison));
    RETURN_IF_ERROR(Advance(false));
    return comparison;
  }

  absl::Status ReadField(const Token& token, JobFilter* comparison) {
    static constexpr std::array<std::pair<const char*, Field>, 6> kNames = {{
        {"state", Field::kState},
        {"method", Field::kMethod},
        {"error.reason", Field::kErrorReason},
        {"priority", Field::kPriority},
        {"create_time", Field::kCreateTime},
        {"end_time", Field::kEndTime},
    }};
    if (token.kind != Token::Kind::kWord) {
      return Fault(token.column, absl::StrCat("expected a field: ", kFields));
    }
    if (absl::StartsWith(token.text, "labels.")) {
      comparison->field = Field::kLabel;
      comparison->label = token.text.substr(7);
      if (comparison->label.empty()) return Fault(token.column, "expected labels.KEY");
      return absl::OkStatus();
    }
    std::vector<std::string> names;
    for (const auto& [name, field] : kNames) {
      if (token.text == name) {
        comparison->field = field;
        return absl::OkStatus();
      }
      names.push_back(name);
    }
    return Fault(token.column,
                 absl::StrCat("unknown field '", token.text, "'", DidYouMean(token.text, names),
                              "; the fields are ", kFields));
  }

  static bool IsOrdered(Field field) {
    return field == Field::kPriority || field == Field::kCreateTime || field == Field::kEndTime;
  }

  absl::Status ReadOperator(const Token& token, JobFilter* comparison) {
    static constexpr std::array<std::pair<const char*, Op>, 7> kOperators = {{
        {"=", Op::kEqual},
        {"!=", Op::kNotEqual},
        {"<", Op::kLess},
        {"<=", Op::kLessEqual},
        {">", Op::kGreater},
        {">=", Op::kGreaterEqual},
        {":", Op::kPresent},
    }};
    for (const auto& [text, op] : kOperators) {
      if (token.text == text) comparison->op = op;
    }
    const bool equality = comparison->op == Op::kEqual || comparison->op == Op::kNotEqual;
    if (comparison->op == Op::kPresent && comparison->field != Field::kLabel) {
      return Fault(token.column, "':' works with labels.KEY only; use =");
    }
    if (!equality && comparison->op != Op::kPresent && !IsOrdered(comparison->field)) {
      return Fault(token.column, absl::StrCat("'", token.text,
                                              "' works with priority, create_time and end_time "
                                              "only; use = or !="));
    }
    return absl::OkStatus();
  }

  absl::Status ReadValue(const Token& sign, const Token& value, JobFilter* comparison) {
    comparison->text = value.text;
    switch (comparison->field) {
      case Field::kState: {
        if (ParseJobState(value.text)) return absl::OkStatus();
        std::vector<std::string> names;
        for (int state = 0; state <= static_cast<int>(JobState::kCancelled); ++state) {
          names.emplace_back(JobStateName(static_cast<JobState>(state)));
        }
        std::string list;
        for (const std::string& name : names)
          absl::StrAppend(&list, list.empty() ? "" : ", ", name);
        return Fault(value.column,
                     absl::StrCat("unknown state '", value.text, "'", DidYouMean(value.text, names),
                                  "; the states are ", list));
      }
      case Field::kLabel: {
        const bool star = value.kind == Token::Kind::kWord && value.text == "*";
        if (comparison->op == Op::kPresent && !star) {
          return Fault(value.column, absl::StrCat("expected '*' after ':'; for a value use labels.",
                                                  comparison->label, " = ..."));
        }
        if (star && sign.text == "!=") {
          return Fault(value.column, absl::StrCat("for a label that is not set use NOT labels.",
                                                  comparison->label, ":*"));
        }
        if (star) {
          comparison->op = Op::kPresent;
          comparison->text.clear();
        }
        return absl::OkStatus();
      }
      case Field::kMethod:
      case Field::kErrorReason:
        return absl::OkStatus();
      case Field::kPriority:
        comparison->text.clear();
        if (absl::SimpleAtoi(value.text, &comparison->number)) return absl::OkStatus();
        return Fault(value.column, "expected a whole number");
      case Field::kCreateTime:
      case Field::kEndTime: {
        comparison->text.clear();
        std::string error;
        // ParseTime would take "infinite-past" as well.
        if (!value.text.empty() && absl::ascii_isdigit(static_cast<unsigned char>(value.text[0])) &&
            absl::ParseTime(absl::RFC3339_full, value.text, &comparison->time, &error)) {
          return absl::OkStatus();
        }
        return Fault(value.column, "expected a time like \"2026-01-31T12:00:00Z\"");
      }
    }
    return absl::OkStatus();
  }

  Lexer lexer_;
  Token token_;
  int comparisons_ = 0;
};

}  // namespace

absl::StatusOr<JobFilter> ParseJobFilter(absl::string_view text) {
  if (text.size() > kMaxBytes) {
    return MakeError(Reason::kInvalidFilter,
                     absl::StrCat("the filter has ", text.size(), " bytes, at most ", kMaxBytes,
                                  " are allowed; make it shorter"));
  }
  return Parser(text).Parse();
}

}  // namespace orthomerge
