#include "core/recipe/chat_templates.h"

#include <algorithm>

namespace orthomerge {
namespace {

struct Template {
  absl::string_view name;
  absl::string_view text;
};

// Written for this project from the formats' descriptions; chatml has the text that is usual.
constexpr Template kTemplates[] = {
    {"alpaca",
     R"({%- for message in messages %}
{%- if message['role'] == 'system' %}{{ message['content'] | trim + '\n\n' }}
{%- elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] | trim + '\n\n' }}
{%- elif message['role'] == 'user_context' %}{{ '### Input:\n' + message['content'] | trim + '\n\n' }}
{%- elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] | trim + '\n\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}
)"},
    {"chatml",
     R"({% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
)"},
    {"exaone",
     R"({%- if messages and messages[0]['role'] != 'system' %}{{ '[|system|][|endofturn|]\n' }}{% endif %}
{%- for message in messages %}
{%- set end = '\n' if message['role'] == 'user' else '[|endofturn|]\n' %}
{{- '[|' + message['role'] + '|]' + message['content'] + end }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}
)"},
    {"llama3",
     R"({{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
)"},
    {"mistral",
     R"({{- bos_token }}
{%- set state = namespace(system='', turn='user') %}
{%- for message in messages %}
{%- if loop.first and message['role'] == 'system' %}
{%- set state.system = message['content'] + '\n\n' %}
{%- elif message['role'] != state.turn %}
{{- raise_exception('the roles user and assistant must alternate, after one system message at most') }}
{%- elif message['role'] == 'user' %}
{{- ' [INST] ' + state.system + message['content'] + ' [/INST]' }}
{%- set state.system = '' %}
{%- set state.turn = 'assistant' %}
{%- else %}
{{- ' ' + message['content'] + eos_token }}
{%- set state.turn = 'user' %}
{%- endif %}
{%- endfor %}
)"},
};

}  // namespace

const std::vector<std::string>& ChatTemplateNames() {
  static const auto& names = *[] {
    auto* const all = new std::vector<std::string>;
    for (const Template& known : kTemplates) all->emplace_back(known.name);
    return all;
  }();
  return names;
}

std::optional<std::string> ChatTemplate(absl::string_view name) {
  const auto* const found = std::find_if(std::begin(kTemplates), std::end(kTemplates),
                                         [&](const Template& known) { return known.name == name; });
  if (found == std::end(kTemplates)) return std::nullopt;
  return std::string(found->text);
}

}  // namespace orthomerge
