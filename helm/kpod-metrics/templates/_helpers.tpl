{{- define "kpod-metrics.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kpod-metrics.fullname" -}}
{{- $name := include "kpod-metrics.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of selectors. They must never change, because a DaemonSet's selector cannot be changed. */}}
{{- define "kpod-metrics.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kpod-metrics.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kpod-metrics.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kpod-metrics.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kpod-metrics.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "kpod-metrics.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* A first part with a dot or a colon, or localhost, is a registry, as everywhere. */}}
{{- define "kpod-metrics.image" -}}
{{- $repository := .Values.image.repository -}}
{{- if not $repository -}}
{{- fail (printf "image.repository: required, because no registry has the image by default. `make image` builds dist/kpod-metrics-%s.oci.tar. Load that on every node (kind load image-archive FILE; k3s ctr images import FILE; ctr -n k8s.io images import FILE) and use --set image.repository=localhost/kpod-metrics, or push it to a registry of your own (skopeo copy oci-archive:FILE docker://REGISTRY/kpod-metrics:%s) and use --set image.repository=REGISTRY/kpod-metrics. docs/install.md has every step." .Chart.AppVersion .Chart.AppVersion) -}}
{{- end -}}
{{- with .Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Pull secrets as in a pod. A global one can be a name only. */}}
{{- define "kpod-metrics.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (default list .Values.global.imagePullSecrets) .Values.imagePullSecrets -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- with uniq $secrets -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: all values of config that are not null. */}}
{{- define "kpod-metrics.config" -}}
{{- $given := dict }}
{{- range $key, $value := .Values.config }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $given $key $value }}
{{- end }}
{{- end }}
{{- toYaml $given }}
{{- end -}}

{{- define "kpod-metrics.port" -}}
{{- regexFind "[0-9]+$" (default ":9090" .Values.config.listen) -}}
{{- end -}}

{{- define "kpod-metrics.scheme" -}}
{{- if and .Values.webConfig.secretName .Values.webConfig.tls }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* The probes' own port; empty: the probes use the metrics port. */}}
{{- define "kpod-metrics.probePort" -}}
{{- if and .Values.webConfig.secretName .Values.webConfig.probePort -}}
{{- $port := int .Values.webConfig.probePort -}}
{{- if eq (toString $port) (include "kpod-metrics.port" .) -}}
{{- fail "webConfig.probePort: must differ from the metrics port" -}}
{{- end -}}
{{- $port -}}
{{- end -}}
{{- end -}}

{{/* The port of the probes. */}}
{{- define "kpod-metrics.probe" -}}
{{- if include "kpod-metrics.probePort" . -}}
port: probes
{{- else -}}
port: metrics
{{- if eq (include "kpod-metrics.scheme" .) "https" }}
scheme: HTTPS
{{- end }}
{{- end -}}
{{- end -}}

{{/*
Whether a collector is on: {{ include "kpod-metrics.on" (list . "filesystem") }}; (list . "gpu" "comprehensive") for one
that the profile standard has not.
*/}}
{{- define "kpod-metrics.on" -}}
{{- $config := (index . 0).Values.config -}}
{{- $profiles := ternary (slice . 2) (list "standard" "comprehensive") (gt (len .) 2) -}}
{{- $collector := default (dict) (index (default (dict) $config.collectors) (index . 1)) -}}
{{- if hasKey $collector "enabled" -}}
{{- if $collector.enabled }}true{{ end -}}
{{- else if has $config.profile $profiles -}}
true
{{- end -}}
{{- end -}}

{{/* Whether the agent reads mounts or descriptors of other processes, which needs CAP_SYS_PTRACE. */}}
{{- define "kpod-metrics.traces" -}}
{{- if or (include "kpod-metrics.on" (list . "filesystem")) (include "kpod-metrics.on" (list . "gpu" "comprehensive")) -}}
true
{{- end -}}
{{- end -}}

{{/* Whether the agent needs other pods' processes in /proc. Discovery cgroup reports only cgroups with processes. */}}
{{- define "kpod-metrics.hostPID" -}}
{{- if or (include "kpod-metrics.traces" .) (include "kpod-metrics.on" (list . "net_iface")) (eq .Values.config.discovery "cgroup") -}}
true
{{- end -}}
{{- end -}}

{{- define "kpod-metrics.capabilities" -}}
- BPF
- PERFMON
{{- if include "kpod-metrics.traces" . }}
- SYS_PTRACE
{{- end }}
{{- with .Values.extraCapabilities }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kpod-metrics.appArmor" -}}
{{- if .Values.appArmorProfile.type -}}
{{- .Values.appArmorProfile.type -}}
{{- else if include "kpod-metrics.traces" . -}}
Unconfined
{{- else -}}
RuntimeDefault
{{- end -}}
{{- end -}}

{{/* The field exists since Kubernetes 1.30. */}}
{{- define "kpod-metrics.appArmorIsField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end -}}

{{- define "kpod-metrics.asksApi" -}}
{{- if ne .Values.config.discovery "cgroup" }}true{{ end -}}
{{- end -}}
