#include "client/completion.h"

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

// One script serves both shells: zsh runs it in its emulation of bash's completion. Words that are
// neither commands nor options complete to files.
constexpr char kScript[] = R"(_orthomerge() {
  local word="${COMP_WORDS[COMP_CWORD]}"
  local before="${COMP_WORDS[COMP_CWORD-1]}"
  local command="${COMP_WORDS[1]}"
  local merge="--out --threads --memory-budget --chunk-size --device --seed --quiet --format --help"
  local words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="run plan methods inspect clean version completion help --help --version"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    return
  fi
  case "$before" in
    -o|--format) COMPREPLY=($(compgen -W "table json" -- "$word")); return ;;
    --device) COMPREPLY=($(compgen -W "cpu" -- "$word")); return ;;
    --threads|--memory-budget|--chunk-size|--seed|--limit) return ;;
    --out) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  case "$command" in
    run) words="$merge" ;;
    plan) words="$merge --local" ;;
    inspect) words="--limit --format --help" ;;
    methods|clean|version) words="--format --help" ;;
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$word")); return ;;
    help) COMPREPLY=($(compgen -W "run plan methods inspect clean version" -- "$word")); return ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *)
      case "$command" in
        run|plan|inspect|clean) COMPREPLY=($(compgen -f -- "$word")) ;;
      esac ;;
  esac
}
complete -o filenames -F _orthomerge orthomerge
)";

}  // namespace

std::string CompletionScript(const std::string& shell) {
  if (shell == "bash") {
    return absl::StrCat("# orthomerge: source <(orthomerge completion bash)\n", kScript);
  }
  if (shell == "zsh") {
    return absl::StrCat("# orthomerge: source <(orthomerge completion zsh)\n",
                        "autoload -U +X compinit && compinit\n",
                        "autoload -U +X bashcompinit && bashcompinit\n", kScript);
  }
  return "";
}

}  // namespace orthomerge
