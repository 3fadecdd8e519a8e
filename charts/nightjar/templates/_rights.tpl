{{/* What the operator may do where it looks after fleets. The same list for one namespace and for all; see docs/reference/rbac.md. */}}
{{- define "nightjar.rights" -}}
- apiGroups: [nightjar.dev]
  resources: [relayclusters]
  verbs: [list, watch, patch]
- apiGroups: [nightjar.dev]
  resources: [relayclusters/status]
  verbs: [patch]
- apiGroups: [nightjar.dev]
  resources: [relayclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# The record of a fleet is replaced, never merged.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, update, delete]
# Each by its name; never listed, never watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, update, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "nightjar.subject" -}}
- kind: ServiceAccount
  name: {{ include "nightjar.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
