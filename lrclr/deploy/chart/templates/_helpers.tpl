{{- define "lrclr.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{/* Labels by which the pods are found. They never change. */}}
{{- define "lrclr.selector" -}}
app.kubernetes.io/name: lrclr
app.kubernetes.io/instance: {{ include "lrclr.name" . }}
{{- end }}

{{- define "lrclr.labels" -}}
{{ include "lrclr.selector" . }}
app.kubernetes.io/component: server
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What is served, for people and tools. Another bundle means other pods. */}}
{{- define "lrclr.annotations" -}}
lrclr/bundle-sha256: {{ .Values.bundle.sha256 | quote }}
lrclr/engine: {{ .Values.bundle.engine | quote }}
lrclr/precision: {{ .Values.bundle.precision | quote }}
lrclr/max-batch: {{ .Values.bundle.maxBatch | quote }}
{{- with .Values.bundle.computeCapabilities }}
lrclr/compute-capabilities: {{ join "," . | quote }}
{{- end }}
{{- end }}

{{- define "lrclr.metadata" -}}
name: {{ include "lrclr.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "lrclr.labels" . | nindent 2 }}
{{- end }}

{{/* The bundle's folder in the server's container. A fetched bundle is beside the server's own model repository, which
     can then link its files instead of copying them. */}}
{{- define "lrclr.bundlePath" -}}
{{- if eq .Values.platform "kserve" }}/mnt/models
{{- else if eq .Values.bundle.source.kind "s3" }}/tmp/bundle
{{- else if eq .Values.bundle.source.kind "pvc" }}/bundle{{ .Values.bundle.source.path }}
{{- else }}/bundle
{{- end }}
{{- end }}

{{- define "lrclr.bundleMount" -}}
{{- if and (ne .Values.platform "kserve") (ne .Values.bundle.source.kind "s3") }}
- name: bundle
  mountPath: /bundle
  readOnly: true
{{- end }}
{{- end }}

{{- define "lrclr.environment" -}}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- end }}

{{- define "lrclr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A real radiograph through every graph, answered by the expected bundle. */}}
{{- define "lrclr.probe" -}}
exec:
  command:
    - lrclr
    - probe
    - {{ .Values.server.ipv6 | ternary "[::1]:8001" "127.0.0.1:8001" | quote }}
    - --timeout
    - "7"
    - --expect
    - {{ .Values.bundle.sha256 | quote }}
    - --model-name
    - {{ .Values.bundle.model | quote }}
{{- end }}

{{- define "lrclr.ports" -}}
- name: grpc
  port: 8001
  targetPort: grpc
  protocol: TCP
  appProtocol: kubernetes.io/h2c
- name: http
  port: 8000
  targetPort: http
  protocol: TCP
  appProtocol: http
- name: metrics
  port: 8002
  targetPort: metrics
  protocol: TCP
  appProtocol: http
{{- end }}

{{/* Seconds that a pod may take to end: 10 in which requests still arrive, those in flight, and 15 for the server. */}}
{{- define "lrclr.graceSeconds" -}}
{{ add 10 (int .Values.server.exitTimeout) 15 }}
{{- end }}

{{- define "lrclr.container" -}}
name: {{ eq .Values.platform "kserve" | ternary "kserve-container" "lrclr" }}
image: {{ .Values.image | quote }}
command: [lrclr]
args:
  - serve
  - {{ include "lrclr.bundlePath" . }}
  # The network policy says who reaches the pod's addresses.
  - --address
  - {{ .Values.server.ipv6 | ternary "::" "0.0.0.0" | quote }}
  - --expect
  - {{ .Values.bundle.sha256 | quote }}
  - --startup-timeout
  - "280"
  - --exit-timeout
  - {{ .Values.server.exitTimeout | quote }}
  {{- with .Values.server.instances }}
  - --instances
  - {{ . | quote }}
  {{- end }}
env:
  {{- include "lrclr.environment" . | nindent 2 }}
ports:
  - name: http
    containerPort: 8000
    protocol: TCP
  - name: grpc
    containerPort: 8001
    protocol: TCP
  - name: metrics
    containerPort: 8002
    protocol: TCP
resources:
  requests:
    cpu: {{ .Values.server.cpu | quote }}
    memory: {{ .Values.server.memory | quote }}
    ephemeral-storage: {{ .Values.server.temporary | quote }}
    {{- if .Values.server.gpus }}
    {{ .Values.server.gpuResource }}: {{ .Values.server.gpus | quote }}
    {{- end }}
  limits:
    memory: {{ .Values.server.memory | quote }}
    {{- if .Values.server.gpus }}
    {{ .Values.server.gpuResource }}: {{ .Values.server.gpus | quote }}
    {{- end }}
startupProbe:
  {{- include "lrclr.probe" . | nindent 2 }}
  timeoutSeconds: 10
  periodSeconds: 10
  failureThreshold: 30
# A busy server answers late, or refuses. Only a server that does neither for a minute gets no more requests: without it,
# the load of the other servers would grow.
readinessProbe:
  {{- include "lrclr.probe" . | nindent 2 }}
      - --busy-ok
  timeoutSeconds: 10
  periodSeconds: 20
  failureThreshold: 3
# Whether the server's process runs at all; this needs no model and waits in no queue. `lrclr serve` repairs backends
# that died, and ends if it cannot.
livenessProbe:
  httpGet:
    path: /v2/health/live
    port: http
    scheme: HTTP
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
lifecycle:
  preStop:
    exec:
      command: [sleep, "10"]
securityContext:
  {{- include "lrclr.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- with include "lrclr.bundleMount" . }}
  {{- . | nindent 2 }}
  {{- end }}
  - name: tmp
    mountPath: /tmp
  - name: shm
    mountPath: /dev/shm
{{- end }}

{{- define "lrclr.volumes" -}}
{{- $source := .Values.bundle.source }}
{{- if ne .Values.platform "kserve" }}
{{- if eq $source.kind "pvc" }}
- name: bundle
  persistentVolumeClaim:
    claimName: {{ $source.root | default (printf "%s-bundle" (include "lrclr.name" .)) }}
    readOnly: true
{{- else if eq $source.kind "oci" }}
- name: bundle
  image:
    reference: {{ printf "%s%s" $source.root $source.path | quote }}
    pullPolicy: IfNotPresent
{{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.server.temporary | quote }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.server.sharedMemory | quote }}
{{- end }}

{{/* The part of a pod that a Deployment's template and KServe's predictor share. */}}
{{- define "lrclr.pod" -}}
{{- with .Values.serviceAccount }}
serviceAccountName: {{ . | quote }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  # The user of the Triton image. The kubelet cannot tell whether a name is root's.
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- if .Values.bundle.computeCapabilities }}
# Nodes whose GPU the plans were built for, by the labels of NVIDIA's GPU feature discovery.
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        {{- if .Values.bundle.fromAmpere }}
        - matchExpressions:
            - key: nvidia.com/gpu.compute.major
              operator: Gt
              values: ["7"]
        {{- else }}
        {{- range .Values.bundle.computeCapabilities }}
        - matchExpressions:
            - key: nvidia.com/gpu.compute.major
              operator: In
              values: [{{ (split "." .)._0 | quote }}]
            - key: nvidia.com/gpu.compute.minor
              operator: In
              values: [{{ (split "." .)._1 | quote }}]
        {{- end }}
        {{- end }}
{{- end }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "lrclr.selector" $ | nindent 8 }}
  {{- end }}
terminationGracePeriodSeconds: {{ include "lrclr.graceSeconds" . }}
{{- end }}

{{/* Labels that select this release's servers in PromQL, whether Kubernetes or KServe named the pods. The last two parts
     hold no dash, so that a release whose name begins alike is not selected. */}}
{{- define "lrclr.where" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "lrclr.name" . }}-(predictor-)?[a-z0-9]+-[a-z0-9]+"
{{- end }}

{{/* An entry of prometheus-adapter's rules: the metric of the autoscaler. */}}
{{- define "lrclr.adapterRule" -}}
- seriesQuery: nv_inference_queue_duration_us{ {{- include "lrclr.where" . -}} }
  resources:
    overrides:
      namespace: {resource: namespace}
      pod: {resource: pod}
  name:
    as: lrclr_requests_waiting
  metricsQuery: sum by (<<.GroupBy>>) (rate(nv_inference_queue_duration_us{<<.LabelMatchers>>}[2m])) / 1e6
{{- end }}
