// Holds values against the schemas of @nostrability/schemata. One line of stdin for each: ["<path of the schema>", <value>].
// Prints one list: for each line the faults that were found, or null where there is no such schema.
// The modules come from the folder in NIGHTJAR_INTEROP_NODE.
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const installed = process.env.NIGHTJAR_INTEROP_NODE
const { default: Ajv } = createRequire(`${installed}/package.json`)('ajv')
// Not strict: the schemas carry words for people (`errorMessage`) that ajv does not know.
const ajv = new Ajv({ strict: false, allErrors: true })
const compiled = new Map()

function schema(path) {
  if (!compiled.has(path)) {
    const file = `${installed}/node_modules/@nostrability/schemata/dist/${path}/schema.json`
    compiled.set(path, existsSync(file) ? ajv.compile(JSON.parse(readFileSync(file, 'utf8'))) : null)
  }
  return compiled.get(path)
}

const lines = readFileSync(0, 'utf8').split('\n').filter(line => line !== '')
const faults = lines.map(line => {
  const [path, value] = JSON.parse(line)
  const validate = schema(path)
  if (validate === null) return null
  return validate(value) ? [] : validate.errors.map(error => `${error.instancePath} ${error.message}`)
})
process.stdout.write(JSON.stringify(faults))
