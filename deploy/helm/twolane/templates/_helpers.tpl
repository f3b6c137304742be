{{- define "twolane.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select the pods of a component. Call with (list . "gateway"). */ -}}
{{- define "twolane.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "twolane.match" -}}
{matchLabels: {{ include "twolane.selector" . | fromYaml | toJson }}}
{{- end -}}

{{- define "twolane.labels" -}}
{{- $root := index . 0 -}}
{{ include "twolane.selector" . }}
app.kubernetes.io/part-of: twolane
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "twolane.metadata" -}}
name: {{ include "twolane.fullname" (index . 0) }}-{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels: {{- include "twolane.labels" . | nindent 2 }}
{{- end -}}

{{- /* A digest, if known, takes the place of the tag. Call with (list . image suffixOfTheDefaultTag). */ -}}
{{- define "twolane.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (printf "%s%s" (index . 0).Chart.AppVersion (index . 2)) $image.tag }}
{{- end -}}
{{- end -}}

{{- /* Fields that all pods share. Call with (list . component user group). */ -}}
{{- define "twolane.pod" -}}
{{- $root := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false  # a service named twolane would set TWOLANE_PORT
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ index . 2 }}
  runAsGroup: {{ index . 2 }}
  fsGroup: {{ index . 2 }}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "twolane.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {{ include "twolane.match" . }}
{{- end -}}

{{- /* nodeSelector and so on, of a component's values; empty ones are left out. */ -}}
{{- define "twolane.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $ $key }}
{{ $key }}: {{- if kindIs "string" . }} {{ . }}{{ else }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "twolane.confined" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end -}}

{{- /* A variable from the secret. Call with (list . variable key isOptional). */ -}}
{{- define "twolane.secretVariable" -}}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ (index . 0).Values.secret.name }}, key: {{ index . 2 }}{{ if index . 3 }}, optional: true{{ end }}}}
{{- end -}}

{{- define "twolane.policyName" -}}
{{- default (printf "%s-policy" (include "twolane.fullname" .)) .Values.policy.existingConfigMap -}}
{{- end -}}

{{- define "twolane.isPolicyOurs" -}}
{{- if and (not .Values.policy.existingConfigMap) (not .Values.policy.content) }}yes{{ end -}}
{{- end -}}

{{- /* Which source of weights is set; exactly one may be. */ -}}
{{- define "twolane.weights" -}}
{{- $weights := .Values.worker.weights -}}
{{- $set := list -}}
{{- if $weights.hostPath }}{{ $set = append $set "hostPath" }}{{ end -}}
{{- if $weights.image.reference }}{{ $set = append $set "image" }}{{ end -}}
{{- if $weights.fetch.model }}{{ $set = append $set "fetch" }}{{ end -}}
{{- if and $weights.claim (or (not $set) (ne $weights.claim "twolane-checkpoint")) }}{{ $set = append $set "claim" }}{{ end -}}
{{- if ne (len $set) 1 }}{{ fail (printf "worker.weights: set exactly one of claim, hostPath, image.reference and fetch.model, not %d (%s)" (len $set) (join ", " $set)) }}{{ end -}}
{{- first $set -}}
{{- end -}}

{{- /* Names what the job downloads: a new model or revision is a new job and a new folder. */ -}}
{{- define "twolane.weightsId" -}}
{{- printf "%s@%s" .Values.worker.weights.fetch.model .Values.worker.weights.fetch.revision | sha256sum | trunc 8 -}}
{{- end -}}
