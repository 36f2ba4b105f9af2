{{/* Directories that Ray and the models' cache write, beside a read-only root. */}}
{{- define "gmpo.scratchMounts" -}}
- name: tmp
  mountPath: /tmp
- name: home
  mountPath: /home/gmpo
{{- end -}}

{{/* Takes the size of each. */}}
{{- define "gmpo.scratchVolumes" -}}
{{- $size := . -}}
{{- range list "tmp" "home" }}
- name: {{ . }}
  emptyDir:
    sizeLimit: {{ $size }}
{{- end }}
{{- end -}}

{{/* Takes root, group, part (component-role), and answers: whether clients are answered here, which takes the file of keys. */}}
{{- define "gmpo.volumeMounts" -}}
{{ include "gmpo.scratchMounts" . }}
- name: shm
  mountPath: /dev/shm
- name: runs
  mountPath: {{ .root.Values.storage.mountPath }}
{{- if eq .part "training-head" }}
- name: recipe
  mountPath: /etc/gmpo/recipe
  readOnly: true
{{- end }}
{{- if .answers }}
- name: keys
  mountPath: /etc/gmpo/keys
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- with .group.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes what volumeMounts takes, and autoscaled. */}}
{{- define "gmpo.volumes" -}}
{{- $root := .root -}}
{{- include "gmpo.scratchVolumes" (default $root.Values.scratchSize .group.scratchSize) }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ default (dig "limits" "memory" "1Gi" .group.resources) .group.shmSize }}
- name: runs
  persistentVolumeClaim:
    claimName: {{ include "gmpo.claimName" $root }}
{{- if eq .part "training-head" }}
- name: recipe
  configMap:
    name: {{ default (include "gmpo.jobName" $root) $root.Values.existingRecipe.configMap }}
    items:
      - key: {{ if $root.Values.existingRecipe.configMap }}{{ $root.Values.existingRecipe.key }}{{ else }}recipe.yaml{{ end }}
        path: recipe.yaml
{{- end }}
{{- if .answers }}
- name: keys
  secret:
    secretName: {{ $root.Values.apiKeys.existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ $root.Values.apiKeys.key }}
        path: keys.json
{{- end }}
{{- if .autoscaled }}
{{ include "gmpo.tokenVolume" . }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- with .group.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The head's service account, for the autoscaler's container alone: what the run executes does not see it. */}}
{{- define "gmpo.tokenVolume" -}}
- name: service-account
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}
