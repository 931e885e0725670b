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

{{- /* What no schema can say: values that are each fine and do not fit together. Each message names the value. */ -}}
{{- define "saker.check" -}}
{{- $config := .Values.config -}}
{{- $at := dict "root" $config -}}
{{- range $path, $instead := dict
  "http.enabled" "the kubelet and Prometheus ask there"
  "http.listen" "see listenAddress and metrics.port"
  "containers.host_root" "the chart mounts the node at /host"
  "alert_log.directory" "the folder on the node is stateFolder"
  "grpc.tcp.listen" "set grpc.enabled and grpc.port"
  "grpc.tcp.tls" "the Secret is grpc.secretName" -}}
  {{- $_ := set $at "here" $config -}}
  {{- $_ := set $at "found" true -}}
  {{- range $key := splitList "." $path -}}
    {{- if and $at.found (kindIs "map" $at.here) (hasKey $at.here $key) -}}
      {{- $_ := set $at "here" (get $at.here $key) -}}
    {{- else -}}
      {{- $_ := set $at "found" false -}}
    {{- end -}}
  {{- end -}}
  {{- if $at.found -}}
    {{- fail (printf "config.%s is the chart's: %s" $path $instead) -}}
  {{- end -}}
{{- end -}}
{{- $ofRules := get $config "rules" | default dict -}}
{{- range $key := list "paths" "keep_shipped" -}}
  {{- if and $.Values.rules (hasKey $ofRules $key) -}}
    {{- fail (printf "config.rules.%s is the chart's where `rules` has files: see shippedRules" $key) -}}
  {{- end -}}
{{- end -}}
{{- if not (or .Values.shippedRules .Values.rules) -}}
  {{- fail "shippedRules: false without any file in `rules` leaves no rules" -}}
{{- end -}}
{{- if and .Values.grpc.enabled (eq (int .Values.metrics.port) (int .Values.grpc.port)) -}}
  {{- fail (printf "grpc.port: %d is metrics.port too" (int .Values.grpc.port)) -}}
{{- end -}}
{{- if and .Values.grpc.certManager.enabled (not .Values.grpc.enabled) -}}
  {{- fail "grpc.certManager.enabled: there is nothing to certify without grpc.enabled" -}}
{{- end -}}
{{- if and .Values.networkPolicy.grpcFrom (not .Values.grpc.enabled) -}}
  {{- fail "networkPolicy.grpcFrom: nothing listens there without grpc.enabled" -}}
{{- end -}}
{{- /* Where the agent looks for runtimes by itself (agent/src/context/runtime.rs). */ -}}
{{- $sockets := list "/run/containerd/containerd.sock" "/run/crio/crio.sock" "/run/k3s/containerd/containerd.sock" "/run/k0s/containerd.sock"
  "/var/snap/microk8s/common/run/containerd.sock" "/run/cri-dockerd.sock" "/run/docker.sock" "/run/podman/podman.sock" -}}
{{- $ofContainers := get $config "containers" | default dict -}}
{{- $named := list -}}
{{- range $key := list "cri_sockets" "docker_sockets" -}}
  {{- $these := get $ofContainers $key | default list -}}
  {{- if not (kindIs "slice" $these) -}}{{- fail (printf "config.containers.%s: a list is wanted" $key) -}}{{- end -}}
  {{- $named = concat $named $these -}}
{{- end -}}
{{- range $named -}}
  {{- if not (hasPrefix (printf "/host%s/" $.Values.runtimeFolder) (toString .)) -}}
    {{- fail (printf "config.containers: a pod has no %v: of the node's sockets it sees those in /host%s, which is runtimeFolder" . $.Values.runtimeFolder) -}}
  {{- end -}}
{{- end -}}
{{- $isKnown := false -}}
{{- range $sockets -}}
  {{- if hasPrefix (printf "%s/" $.Values.runtimeFolder) . -}}{{- $isKnown = true -}}{{- end -}}
{{- end -}}
{{- if not (or $isKnown $named) -}}
  {{- fail (printf "runtimeFolder: no runtime is looked for in %s: name its socket in config.containers.cri_sockets, as /host%s/NAME" .Values.runtimeFolder .Values.runtimeFolder) -}}
{{- end -}}
{{- end }}

{{- /* What the chart sets of the configuration, with `config`, which says nothing of the same keys. */ -}}
{{- define "saker.config" -}}
{{- include "saker.check" . -}}
{{- $address := ternary "[::]" .Values.listenAddress (eq .Values.listenAddress "::") -}}
{{- $config := dict
  "http" (dict "listen" (printf "%s:%d" $address (int .Values.metrics.port)))
  "containers" (dict "host_root" "/host")
  "alert_log" (dict "directory" "/var/lib/saker") -}}
{{- if .Values.rules -}}
{{- $_ := set $config "rules" (dict "paths" (list "/etc/saker/rules") "keep_shipped" .Values.shippedRules) -}}
{{- end -}}
{{- if .Values.grpc.enabled -}}
{{- $tls := dict "certificate" "/etc/saker/tls/tls.crt" "key" "/etc/saker/tls/tls.key" "client_ca" "/etc/saker/tls/ca.crt" -}}
{{- $_ := set $config "grpc" (dict "tcp" (dict "listen" (printf "%s:%d" $address (int .Values.grpc.port)) "tls" $tls)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end }}

{{- /* What the configuration names: `mounts` in a container, `volumes` in a pod. A Secret's files are for their owner alone, but for `mode`. */ -}}
{{- define "saker.mounts" -}}
# A folder and no subPath: what is mounted by subPath does not change when the ConfigMap does.
- {name: config, mountPath: /etc/saker/config, readOnly: true}
{{- if .Values.rules }}
- {name: rules, mountPath: /etc/saker/rules, readOnly: true}
{{- end }}
{{- range .Values.secretFiles }}
- {name: secret-{{ . }}, mountPath: /etc/saker/secrets/{{ . }}, readOnly: true}
{{- end }}
{{- if .Values.grpc.enabled }}
- {name: tls, mountPath: /etc/saker/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "saker.volumes" -}}
- name: config
  configMap: {name: {{ .root.Release.Name | quote }}}
{{- if .root.Values.rules }}
- name: rules
  configMap: {name: {{ .root.Release.Name }}-rules}
{{- end }}
{{- range .root.Values.secretFiles }}
- name: secret-{{ . }}
  secret: {secretName: {{ . | quote }}, defaultMode: {{ $.mode }}}
{{- end }}
{{- if .root.Values.grpc.enabled }}
- name: tls
  secret: {secretName: {{ .root.Values.grpc.secretName | quote }}, defaultMode: {{ .mode }}}
{{- end }}
{{- end }}

{{- /* The image is built for this machine. */ -}}
{{- define "saker.affinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
          - {key: kubernetes.io/arch, operator: In, values: [amd64]}
{{- end }}

{{- define "saker.testContainer" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  requests: {cpu: 10m, memory: 64Mi}
  limits: {memory: 256Mi}
volumeMounts:
  {{- include "saker.mounts" . | nindent 2 }}
{{- end }}
