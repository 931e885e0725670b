{{- define "saker.labels" -}}
app.kubernetes.io/name: saker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "saker.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* What the chart sets of the configuration; `config` counts over it. */ -}}
{{- define "saker.config" -}}
{{- $config := dict
  "http" (dict "listen" (printf "0.0.0.0:%d" (int .Values.metrics.port)))
  "containers" (dict "host_root" "/host")
  "alert_log" (dict "directory" "/var/lib/saker") -}}
{{- if .Values.rules -}}
{{- $_ := set $config "rules" (dict "paths" (list "/etc/saker/rules") "keep_shipped" .Values.shippedRules) -}}
{{- end -}}
{{- if .Values.grpc.enabled -}}
{{- $tls := dict "certificate" "/etc/saker/tls/tls.crt" "key" "/etc/saker/tls/tls.key" "client_ca" "/etc/saker/tls/ca.crt" -}}
{{- $_ := set $config "grpc" (dict "tcp" (dict "listen" (printf "0.0.0.0:%d" (int .Values.grpc.port)) "tls" $tls)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end }}
