{{/* One alert of alerts/, with its settings from the values in place of `${name}`, as an item of a list. */}}
{{- define "nightjar.alert" -}}
{{- $text := .text }}
{{- range $name, $value := .settings }}
{{- $text = replace (printf "${%s}" $name) (toString $value) $text }}
{{- end }}
{{- if contains "${" $text }}
{{- fail (printf "alerts/%s.yaml has a setting that prometheusRule.alerts.%s lacks" .name .name) }}
{{- end }}
{{- $rule := fromYaml $text }}
{{- if ne (toString $rule.alert) .name }}
{{- fail (printf "alerts/%s.yaml does not hold the alert of its name: %v" .name $rule) }}
{{- end }}
{{- $_ := set $rule.annotations "runbook_url" (printf "%s/%s.md" (trimSuffix "/" .runbooks) .name) }}
{{- $_ := set $rule "labels" (merge (dict) $rule.labels .labels) }}
{{- list $rule | toYaml }}
{{- end }}
