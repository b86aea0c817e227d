#include "client/completion.h"

#include "absl/strings/str_cat.h"

namespace orthomerge::client {
namespace {

// One script serves both shells: zsh runs it in its emulation of bash's completion. Words that are
// neither commands nor options complete to files, methods, or jobs where the server answers within
// a second.
constexpr char kScript[] = R"sh(_orthomerge() {
  local word="${COMP_WORDS[COMP_CWORD]}"
  local before="${COMP_WORDS[COMP_CWORD-1]}"
  local command="${COMP_WORDS[1]}"
  local program="${COMP_WORDS[0]}"
  local merge="--out --threads --memory-budget --chunk-size --device --seed --quiet --format --help"
  local remote="--server --tenant --token-file --tls-ca --tls-cert --tls-key --plaintext"
  local spec="--out --relative-to --device --memory-budget --seed --quiet"
  local words="" commands
  remote="$remote --connect-timeout --format --help"
  commands="run plan methods inspect reconstruct clean serve token submit watch get list cancel delete"
  commands="$commands server-info version completion help"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "$commands --help --version" -- "$word"))
    return
  fi
  case "$before" in
    -o|--format)
      case "$command" in
        run|inspect|reconstruct|clean|version|serve|token) COMPREPLY=($(compgen -W "table json" -- "$word")) ;;
        *) COMPREPLY=($(compgen -W "table json yaml" -- "$word")) ;;
      esac
      return ;;
    --device) COMPREPLY=($(compgen -W "cpu cuda cuda:0" -- "$word")); return ;;
    --server)
      COMPREPLY=($(compgen -W "$ORTHOMERGE_SERVER 127.0.0.1:50051" -- "$word"))
      return ;;
    --filter) COMPREPLY=($(compgen -W "state labels. method priority create_time" -- "$word"))
      return ;;
    --threads|--memory-budget|--chunk-size|--seed|--limit|--tenant|--id|--request-id) return ;;
    --label|--priority|--max-attempts|--wait-timeout|--connect-timeout|--reason) return ;;
    --log-level) COMPREPLY=($(compgen -W "debug info warning error" -- "$word")); return ;;
    --listen|--devices|--set) return ;;
    --data-dir|--allow-read|--allow-write|--tls-client-ca|--ready-file)
      COMPREPLY=($(compgen -f -- "$word"))
      return ;;
    --out|--base|--mask|--relative-to|--token-file|--tls-ca|--tls-cert|--tls-key|--result-file|--config)
      COMPREPLY=($(compgen -f -- "$word"))
      return ;;
  esac
  case "$command" in
    run) words="$merge" ;;
    plan) words="$merge --local --relative-to $remote" ;;
    inspect) words="--limit --format --help" ;;
    reconstruct)
      words="--base --out --mask --threads --memory-budget --chunk-size --quiet --format --help" ;;
    methods) words="$remote" ;;
    clean|token|version) words="--format --help" ;;
    serve)
      words="--config --listen --data-dir --allow-read --allow-write --token-file --tls-cert"
      words="$words --tls-key --tls-client-ca --memory-budget --devices --insecure --log-level"
      words="$words --set --ready-file --format --help" ;;
    submit)
      words="$spec --id --request-id --label --priority --max-attempts --validate-only --wait"
      words="$words --wait-timeout --cancel-on-exit --result-file $remote" ;;
    watch) words="--events --wait-timeout $remote" ;;
    list) words="--filter --limit --all $remote" ;;
    cancel) words="--reason --wait --wait-timeout $remote" ;;
    get|delete|server-info) words="$remote" ;;
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$word")); return ;;
    help) COMPREPLY=($(compgen -W "$commands" -- "$word")); return ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")); return ;;
  esac
  case "$command" in
    run|plan|submit|inspect|reconstruct|clean) COMPREPLY=($(compgen -f -- "$word")) ;;
    methods)
      words="$("$program" methods 2>/dev/null | sed -e 1d -e 's/ .*//')"
      COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    watch|get|cancel|delete)
      # As the line says it: the same server, the same credentials.
      local connection=() i
      for ((i = 2; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
          --server|--tenant|--token-file|--tls-ca|--tls-cert|--tls-key)
            # An address is several words to bash: a : stands alone.
            local name="${COMP_WORDS[i]}" value="${COMP_WORDS[i+1]}"
            i=$((i + 1))
            while [ $((i + 1)) -lt "$COMP_CWORD" ] && [ "${COMP_WORDS[i+1]}" = ":" ]; do
              value="$value:${COMP_WORDS[i+2]}"
              i=$((i + 2))
            done
            connection+=("$name" "$value") ;;
          --plaintext) connection+=(--plaintext) ;;
        esac
      done
      COMPREPLY=($(compgen -W "$("$program" __jobs "${connection[@]}" 2>/dev/null)" -- "$word")) ;;
  esac
}
complete -o filenames -F _orthomerge orthomerge
)sh";

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

}  // namespace orthomerge::client
