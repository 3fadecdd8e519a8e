{{/* Names, labels and images: one place for what several objects must agree on. */}}

{{- define "nightjar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "nightjar.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "nightjar.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator's own objects. */}}
{{- define "nightjar.operator" -}}
{{- printf "%s-operator" (include "nightjar.fullname" .) }}
{{- end }}

{{/* Cluster-scoped objects carry the namespace: the same release name may be used in another one. */}}
{{- define "nightjar.clusterwide" -}}
{{- printf "%s:%s" .Release.Namespace (include "nightjar.operator" .) }}
{{- end }}

{{- define "nightjar.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "nightjar.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "nightjar.selector" -}}
app.kubernetes.io/name: nightjar
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "nightjar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "nightjar.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: nightjar
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* repository:tag@digest of `image`, with `version` for an empty tag. */}}
{{- define "nightjar.image" -}}
{{- $tag := default .version .image.tag -}}
{{- printf "%s:%s" .image.repository $tag }}
{{- with .image.digest }}{{ printf "@%s" . }}{{ end }}
{{- end }}

{{/* Restricted Pod Security, and no user of its own on the disk. */}}
{{- define "nightjar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "nightjar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
