{{/* The recipe as the run gets it and as its hash is made of: keys in order, without comments; empty where it comes from a ConfigMap that
exists. Small numbers keep the point without which the recipe's reader takes them for text (1e-05). */}}
{{- define "gmpo.recipe" -}}
{{- $recipe := .Values.recipe | default dict -}}
{{- if kindIs "string" $recipe -}}
{{- $recipe = fromYaml $recipe -}}
{{- with $recipe.Error }}{{ fail (printf "recipe: not a YAML mapping: %s" .) }}{{ end -}}
{{- end -}}
{{- if not (kindIs "map" ($recipe.run | default dict)) }}{{ fail "recipe.run: a section with the run's name, steps, ..." }}{{ end -}}
{{- if ne (dig "run" "root" .Values.storage.mountPath $recipe) .Values.storage.mountPath -}}
{{- fail "recipe.run.root: runs are on the volume, at storage.mountPath; leave it out" -}}
{{- end -}}
{{- if $recipe }}{{ regexReplaceAll "(?m)((?:: |- )-?[0-9]+)(e-[0-9]+)$" (toYaml $recipe) "${1}.0${2}" }}{{ end -}}
{{- end -}}

{{/* Name of the run, of which the run directory is named. */}}
{{- define "gmpo.runName" -}}
{{- if .Values.existingRecipe.configMap -}}
{{- required "existingRecipe.runName is required: the chart does not see the recipe in an existing ConfigMap" .Values.existingRecipe.runName -}}
{{- else -}}
{{- $name := include "gmpo.recipe" . | fromYaml | dig "run" "name" "" -}}
{{- if not (or (kindIs "string" $name) (kindIs "invalid" $name)) }}{{ fail (printf "recipe.run.name: in quotes, or YAML takes it for %v" $name) }}{{ end -}}
{{- required "recipe.run.name is required, or existingRecipe.configMap" $name -}}
{{- end -}}
{{- end -}}

{{/* What distinguishes one training job from another: eight digits. */}}
{{- define "gmpo.recipeHash" -}}
{{- list (include "gmpo.fullname" .) (include "gmpo.recipe" .) .Values.existingRecipe .Values.training.overrides .Values.training.revision | toJson | sha256sum | trunc 8 -}}
{{- end -}}

{{/* Name of the RayJob: release, run and hash, at most the 47 characters that the operator admits. */}}
{{- define "gmpo.jobName" -}}
{{- $full := include "gmpo.fullname" . | trunc 18 -}}
{{- $run := include "gmpo.runName" . | lower | replace "." "-" | replace "_" "-" -}}
{{- printf "%s-%s" $full $run | trunc 38 | trimAll "-" -}}-{{ include "gmpo.recipeHash" . }}
{{- end -}}

{{/* Directory of the run on the shared volume. */}}
{{- define "gmpo.runDir" -}}
{{ .Values.storage.mountPath }}/{{ include "gmpo.runName" . }}
{{- end -}}

{{/* Whether the run itself has an endpoint. */}}
{{- define "gmpo.answersInTraining" -}}
{{- if dig "serve" "during_training" false (include "gmpo.recipe" . | fromYaml) -}}
{{- required "apiKeys.existingSecret is required by serve.during_training" .Values.apiKeys.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* What follows the recipe on the command line. The page and the port of a run are one's own only on a cluster of one's own. */}}
{{- define "gmpo.overrides" -}}
{{- $overrides := list -}}
{{- if .Values.existingRecipe.configMap }}{{ $overrides = append $overrides (printf "run.name=%s" (include "gmpo.runName" .)) }}{{ end -}}
{{- if not (include "gmpo.sharedCluster" .) -}}
{{- with .Values.training.metrics -}}
{{- if .enabled }}{{ $overrides = concat $overrides (list "telemetry.prometheus.host=0.0.0.0" (printf "telemetry.prometheus.port=%d" (int .port))) }}{{ end -}}
{{- end -}}
{{- if include "gmpo.answersInTraining" . }}{{ $overrides = concat $overrides (list "serve.host=0.0.0.0" "serve.keys_file=/etc/gmpo/keys/keys.json") }}{{ end -}}
{{- end -}}
{{- concat $overrides .Values.training.overrides | join " " -}}
{{- end -}}

{{/* The training command. A cluster that others share does not mount the recipe: it is given along in the job's environment, in base64
because the words of a job's command pass through two shells. */}}
{{- define "gmpo.entrypoint" -}}
{{- if include "gmpo.sharedCluster" . -}}
bash -c {{ list "base64 -d <<<$GMPO_RECIPE | gmpo train /dev/stdin" (include "gmpo.overrides" .) | join " " | trim | squote }}
{{- else -}}
{{ list "gmpo train /etc/gmpo/recipe/recipe.yaml" (include "gmpo.overrides" .) | join " " | trim }}
{{- end -}}
{{- end -}}
