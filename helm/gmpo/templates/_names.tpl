{{/* Name of the release's objects: a DNS-1035 label, short enough for every suffix the chart and the operator add. */}}
{{- define "gmpo.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $full := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- $full = default $full .Values.fullnameOverride | lower | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $full) -}}{{- $full = printf "r%s" $full -}}{{- end -}}
{{- trunc 40 $full | trimAll "-" -}}
{{- end -}}

{{/* What selects the pods of the release; with a component, those of one part of it. Takes (list root component).
The operator selects a job's and a service's head pod by app.kubernetes.io/name: kuberay, so pods keep that name and are told by part-of. */}}
{{- define "gmpo.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: gmpo
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of a pod. Takes (list root component). */}}
{{- define "gmpo.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "gmpo.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of an object that the chart makes. Takes (list root component). */}}
{{- define "gmpo.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{ include "gmpo.podLabels" . }}
{{- end -}}

{{/* metadata of an object. Takes root, component, name; labels and annotations of its own if any. */}}
{{- define "gmpo.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "gmpo.labels" (list .root .component) | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gmpo.image" -}}
{{- $repository := required "image.repository is required: where you pushed the image that deploy/Dockerfile builds" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "gmpo.serviceAccountName" -}}
{{- .Values.serviceAccount.create | ternary (default (include "gmpo.fullname" .) .Values.serviceAccount.name) (default "default" .Values.serviceAccount.name) -}}
{{- end -}}

{{- define "gmpo.claimName" -}}
{{- default (printf "%s-runs" (include "gmpo.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{/* Name of the RayCluster that the training job is given to; empty where it brings its own. */}}
{{- define "gmpo.sharedCluster" -}}
{{- .Values.sharedCluster.enabled | ternary (printf "%s-cluster" (include "gmpo.fullname" .)) .Values.training.existingCluster -}}
{{- end -}}

{{/* The parts of the release that are Ray clusters: a mapping of component to its values and whether it answers clients, as YAML. */}}
{{- define "gmpo.clusters" -}}
{{- $clusters := dict -}}
{{- if and .Values.training.enabled (not (include "gmpo.sharedCluster" .)) }}{{ $_ := set $clusters "training" (dict "section" .Values.training "answers" (include "gmpo.answersInTraining" . | empty | not)) }}{{ end -}}
{{- if .Values.endpoint.enabled }}{{ $_ := set $clusters "endpoint" (dict "section" .Values.endpoint "answers" true) }}{{ end -}}
{{- if .Values.sharedCluster.enabled }}{{ $_ := set $clusters "cluster" (dict "section" .Values.sharedCluster "answers" false) }}{{ end -}}
{{- toYaml $clusters -}}
{{- end -}}
