{{/* How many pods a worker group has. Takes the values of a part. */}}
{{- define "gmpo.checkSizes" -}}
{{- $scales := .autoscaling -}}
{{- range $name, $group := .workerGroups -}}
{{- $replicas := dig "replicas" 1 $group | int -}}
{{- $least := dig "minReplicas" $replicas $group | int -}}
{{- $most := dig "maxReplicas" $replicas $group | int -}}
{{- if gt $least $most -}}
{{- fail (printf "workerGroups.%s: minReplicas %d is more than maxReplicas %d" $name $least $most) -}}
{{- else if not (or $scales (and (le $least $replicas) (le $replicas $most))) -}}
{{- fail (printf "workerGroups.%s: minReplicas <= replicas <= maxReplicas" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Kueue knows the size of what it admits, unless it may admit it piece by piece. Takes (list component values-of-that-part). */}}
{{- define "gmpo.checkQueue" -}}
{{- $section := index . 1 -}}
{{- $sliced := eq (dig "kueue.x-k8s.io/elastic-job" "" $section.annotations) "true" -}}
{{- if and $section.autoscaling (hasKey $section.labels "kueue.x-k8s.io/queue-name") (not $sliced) -}}
{{- fail (printf "%s: Kueue refuses autoscaling but for what has the annotation kueue.x-k8s.io/elastic-job: \"true\"" (index . 0)) -}}
{{- end -}}
{{- end -}}

{{/* Whether a part has pods with GPUs. Takes its values. */}}
{{- define "gmpo.hasGpus" -}}
{{- range append (values .workerGroups) .head -}}
{{- range $resource, $amount := dig "resources" "limits" dict . -}}
{{- if regexMatch "gpu" $resource }}yes{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* GPUs that a recipe may not ask for are paid for in vain: a driver looks for them where it runs, on the head, and before groups grow. */}}
{{- define "gmpo.checkDevice" -}}
{{- $section := .Values.sharedCluster.enabled | ternary .Values.sharedCluster .Values.training -}}
{{- $recipe := include "gmpo.recipe" . | fromYaml -}}
{{- $said := or (dig "cluster" "device" "" $recipe) (regexMatch "(^| )cluster\\.device=" (join " " .Values.training.overrides)) -}}
{{- if and .Values.training.enabled $recipe (not .Values.training.existingCluster) (include "gmpo.hasGpus" $section) (not $said) -}}
{{- fail "recipe.cluster.device: gpu is missing, and there are pods with GPUs (auto leaves it to what the cluster has when the run begins)" -}}
{{- end -}}
{{- end -}}
